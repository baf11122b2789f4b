"""Automatic mixed precision on a CPU."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.utils import apply_to
from torch import nn

from mmvheat.registry import OPTIM_WRAPPERS

from .distributed import unwrapped

__all__ = ['CPUAmpOptimWrapper']


def _in_bfloat16(forward: Callable) -> Callable:
    """``forward`` under bfloat16 autocast, with float32 results."""

    @wraps(forward)
    def cast(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast('cpu', dtype=torch.bfloat16):
            output = forward(*args, **kwargs)
        return apply_to(output, torch.is_tensor, lambda tensor: tensor.float())

    return cast


@contextmanager
def _replaced_forward(module: nn.Module, forward: Callable) -> Iterator[None]:
    own = vars(module).get('forward')
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """OptimWrapper with bfloat16 autocast around feature extraction, for a CPU.

    mmengine's AmpOptimWrapper refuses a CPU. Only ``backbone`` and ``neck`` are cast: mmcv's nms
    and RoIAlign need float32 there. bfloat16 has the range of float32, so no loss is scaled.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        accumulative_counts: int = 1,
        clip_grad: dict | None = None,
    ) -> None:
        super().__init__(optimizer, accumulative_counts, clip_grad)
        self._cast_forwards: dict[nn.Module, Callable] = {}

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Cast the feature extraction of ``model`` (bare or in a distributed wrapper)."""
        bare = unwrapped(model)
        parts = [getattr(bare, name, None) for name in ('backbone', 'neck')]
        with super().optim_context(model), ExitStack() as stack:
            for part in parts:
                if isinstance(part, nn.Module):
                    stack.enter_context(_replaced_forward(part, self._cast_forward(part)))
            yield

    def _cast_forward(self, part: nn.Module) -> Callable:
        # One function for all steps: torch.compile would compile anew for another one.
        if part not in self._cast_forwards:
            self._cast_forwards[part] = _in_bfloat16(part.forward)
        return self._cast_forwards[part]
