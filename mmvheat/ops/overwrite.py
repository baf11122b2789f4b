"""Write over memory that is used up: a CPU's system clears fresh memory page by page."""

from collections.abc import Iterable

import torch
from torch import Tensor

from .plain import is_plain

__all__ = ['may_overwrite', 'multiply']


def may_overwrite(tensors: Iterable[Tensor]) -> bool:
    """Whether what was computed from the tensors may be written over when it is used up."""
    return not torch.is_grad_enabled() and is_plain(tensors)


def multiply(x: Tensor, y: Tensor, overwrite: bool) -> Tensor:
    """Compute ``x * y``, in the memory and dtype of ``x`` if that may be written over."""
    return x.mul_(y) if overwrite else x * y
