"""Autocast, where a device has it."""

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ['without_autocast']


def without_autocast(device_type: str) -> AbstractContextManager:
    """Switch autocast off; on the meta device, which has none, there is nothing to switch."""
    if device_type == 'meta':
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
