"""Fused GPU kernels in Triton, opt-in until a GPU run has shown them equal and faster.

``MMVHEAT_KERNELS=1`` in the environment, or :func:`use_kernels`, switches them on. Until then
Triton is not imported. Without it everything imports, and nothing here is used.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from ..dispatch import dual_level_is_open

__all__ = [
    'fits_kernels',
    'heat_conduct',
    'kernels_available',
    'kernels_enabled',
    'norm_gate',
    'use_kernels',
]

_enabled = os.environ.get('MMVHEAT_KERNELS') == '1'
# Where the functions are that import Triton.
_FUNCTIONS = {'fits_kernels': 'conduction', 'heat_conduct': 'conduction', 'norm_gate': 'gated_norm'}


def _load_kernels() -> None:
    for name, file in _FUNCTIONS.items():
        globals().setdefault(name, getattr(import_module(f'{__name__}.{file}'), name))


def __getattr__(name: str) -> Any:
    """Import the kernels when one is first asked for."""
    if name not in _FUNCTIONS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    _load_kernels()
    return globals()[name]


def kernels_available(device: torch.device | str) -> bool:
    """Whether the kernels run on a device: Triton is there, and a GPU or Triton's interpreter."""
    # Triton is imported where somebody asks for it, not with the package.
    from .optional_triton import HAS_TRITON, INTERPRETED

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
    if enabled:
        _load_kernels()  # Not while a compiler traces the model.
    try:
        yield
    finally:
        _enabled = before


if _enabled:
    _load_kernels()
