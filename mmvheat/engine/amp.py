"""Automatic mixed precision on a CPU."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.utils import apply_to
from torch import nn

from mmvheat.registry import OPTIM_WRAPPERS

from .distributed import unwrapped

__all__ = ['CPUAmpOptimWrapper']


@contextmanager
def _bfloat16_inside(module: nn.Module) -> Iterator[None]:
    """Within the context, ``module`` computes under bfloat16 autocast and returns float32."""
    autocasts: list[torch.autocast] = []

    def enter(*_: Any) -> None:
        autocasts.append(torch.autocast('cpu', dtype=torch.bfloat16))
        autocasts[-1].__enter__()

    def leave(module: nn.Module, args: tuple, output: Any) -> Any:
        autocasts.pop().__exit__(None, None, None)
        return apply_to(output, torch.is_tensor, lambda tensor: tensor.float())

    handles = (
        module.register_forward_pre_hook(enter),
        # always_call: an error inside must not leave autocast on.
        module.register_forward_hook(leave, always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """OptimWrapper with bfloat16 autocast around feature extraction, for a CPU.

    mmengine's AmpOptimWrapper refuses a CPU. Only ``backbone`` and ``neck`` are cast: mmcv's nms
    and RoIAlign need float32 there. bfloat16 has the range of float32, so no loss is scaled.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Cast the feature extraction of ``model`` (bare or in a distributed wrapper)."""
        bare = unwrapped(model)
        parts = [getattr(bare, name, None) for name in ('backbone', 'neck')]
        with super().optim_context(model), ExitStack() as stack:
            for part in parts:
                if isinstance(part, nn.Module):
                    stack.enter_context(_bfloat16_inside(part))
            yield
