"""Fixes that hold for the whole process; all others are choices of the tools."""

from typing import Any

import torch
from mmengine.runner import CheckpointLoader

from mmvheat.checkpoint.reading import read_checkpoint
from mmvheat.checkpoint.safe_globals import safe_globals

__all__ = ['apply_stack_fixes']


def _load_from_safetensors(filename: str, map_location: Any = None) -> dict:
    """Read what mmengine's local loader cannot; the tensors stay on the CPU."""
    return read_checkpoint(filename)


def apply_stack_fixes() -> None:
    """Make mmengine's own loading work on torch >= 2.6, for ``init_cfg``, ``load_from`` and resume.

    Lets torch's safe loading (``weights_only=True``) read what mmengine's checkpoints hold, and
    mmengine read safetensors. Doing it twice, or with a GPU, does no harm.
    """
    torch.serialization.add_safe_globals(safe_globals())
    CheckpointLoader.register_scheme(r'.*\.safetensors$', _load_from_safetensors, force=True)
