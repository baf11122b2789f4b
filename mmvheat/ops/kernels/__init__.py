"""Fused GPU kernels in Triton, opt-in until a GPU run has shown them equal and faster.

``MMVHEAT_KERNELS=1`` in the environment, or :func:`use_kernels`, switches them on. Without Triton
everything imports, and nothing here is used.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..dispatch import dual_level_is_open
from .conduction import fits_kernels, heat_conduct
from .gated_norm import norm_gate
from .optional_triton import HAS_TRITON, INTERPRETED

__all__ = [
    'fits_kernels',
    'heat_conduct',
    'kernels_available',
    'kernels_enabled',
    'norm_gate',
    'use_kernels',
]

_enabled = os.environ.get('MMVHEAT_KERNELS') == '1'


def kernels_available(device: torch.device | str) -> bool:
    """Whether the kernels run on a device: Triton is there, and a GPU or Triton's interpreter."""
    return HAS_TRITON and (torch.device(device).type == 'cuda' or INTERPRETED)


def kernels_enabled(device: torch.device | str) -> bool:
    """Whether the kernels are to be used on a device: available, and switched on.

    Not in forward-mode differentiation, for which they have no rule.
    """
    return _enabled and kernels_available(device) and not dual_level_is_open()


@contextmanager
def use_kernels(enabled: bool = True) -> Iterator[None]:
    """Switch the kernels on (or off) in a ``with`` block, in the whole process.

    Args:
        enabled: Whether to use them where they are available and fit.
    """
    global _enabled
    before, _enabled = _enabled, enabled
    try:
        yield
    finally:
        _enabled = before
