"""Autocast, where a device has it."""

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ['without_autocast']


def without_autocast(device_type: str) -> AbstractContextManager:
    """Switch autocast off; nothing to switch on devices without it, such as meta."""
    if not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
