"""In which precision an operator computes."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ['compute_dtype', 'without_autocast']


def compute_dtype(x: Tensor) -> torch.dtype:
    """What a matrix product with ``x`` is computed in: its dtype, or that of autocast.

    A compiler cannot ask for autocast's: there it is the dtype of ``x``, and the product itself is
    cast.
    """
    kind = x.device.type
    if torch.compiler.is_compiling():
        return x.dtype
    # Asking about autocast on the meta device is an error, for it has none.
    if kind != 'meta' and x.dtype != torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def without_autocast(device_type: str) -> AbstractContextManager:
    """Switch autocast off; on the meta device, which has none, there is nothing to switch."""
    if device_type == 'meta':
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
