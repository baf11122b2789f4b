"""Fixes that hold for the whole process; all others are choices of the tools."""

from typing import Any

import torch
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_files

from mmvheat.checkpoint import as_mmengine_checkpoint, read_checkpoint, safe_globals

__all__ = ['apply_stack_fixes']


def load_from_safetensors(filename: str, map_location: Any = None) -> dict:
    """Read what mmengine's local loader cannot; the tensors stay on the CPU."""
    return as_mmengine_checkpoint(read_checkpoint(filename))


def load_from_local(filename: str, map_location: Any = None) -> dict:
    """Read a file as mmengine does, a published one in mmengine's form."""
    return as_mmengine_checkpoint(mmengine_files.load_from_local(filename, map_location))


def load_from_http(
    filename: str, map_location: Any = None, model_dir: str | None = None, progress: bool = True
) -> dict:
    """Download a file as mmengine does, a published one in mmengine's form."""
    return as_mmengine_checkpoint(
        mmengine_files.load_from_http(filename, map_location, model_dir, progress)
    )


def apply_stack_fixes() -> None:
    """Make mmengine's own loading work for ``init_cfg``, ``load_from``, resume and inferencers.

    Lets torch's safe loading (``weights_only=True``, torch >= 2.6) read what mmengine's checkpoints
    hold, and mmengine read safetensors and the published code's files. Doing it twice, or with a
    GPU, does no harm.
    """
    torch.serialization.add_safe_globals(safe_globals())
    CheckpointLoader.register_scheme(r'.*\.safetensors$', load_from_safetensors, force=True)
    CheckpointLoader.register_scheme(('http://', 'https://'), load_from_http, force=True)
    CheckpointLoader.register_scheme('', load_from_local, force=True)
