"""Tell ordinary tensors, which the fast paths take, from all that needs plain torch."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .private_torch import dispatch_mode_is_active, dual_level_is_open

__all__ = ['is_capturing', 'is_plain', 'needs_grad']


def is_plain(tensors: Iterable[Tensor]) -> bool:
    """Whether all are ordinary tensors in memory: not traced, fake, wrapped, watched or dual.

    What is done behind torch's back, such as keeping a result or calling a fused kernel, is right
    for these alone: tracers would bake it in, FLOP counters would miss it, tangents would be lost.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if dispatch_mode_is_active() or dual_level_is_open():
        return False
    try:
        for tensor in tensors:
            if type(tensor) not in (Tensor, nn.Parameter):
                return False
            tensor.data_ptr()
    except RuntimeError:  # tensors of torch.func have no memory of their own
        return False
    return True


def needs_grad(tensors: Iterable[Tensor]) -> bool:
    """Whether an operation on the tensors is recorded for a backward pass."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured: what is made now has no values until it replays."""
    return device.type == 'cuda' and torch.cuda.is_current_stream_capturing()
