"""Tell tensors that hold numbers from those that stand for some."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ['is_plain', 'needs_grad']


def is_plain(tensors: Iterable[Tensor]) -> bool:
    """Whether all are ordinary tensors in memory: not traced, fake, wrapped or watched.

    What is done behind torch's back, such as keeping a result or calling a fused kernel, is right
    for these alone: tracers would bake it in, and FLOP counters would miss it.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if torch._C._len_torch_dispatch_stack():
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
