"""Convert a checkpoint file: read, find, convert, write."""

import os
from dataclasses import replace
from pathlib import Path

from .convert import as_size, convert_state_dict
from .formats import find_state_dict
from .reading import read_checkpoint
from .report import ConversionReport
from .writing import check_target, write_checkpoint

__all__ = ['convert_file']


def convert_file(
    source: str | os.PathLike,
    target: str | os.PathLike,
    source_size: int | tuple[int, int],
    target_size: int | tuple[int, int],
    mode: str = 'bicubic',
    key: str | None = None,
    task: str = 'downstream',
    force: bool = False,
) -> ConversionReport:
    """Convert a vHeat checkpoint into one that a config takes.

    Args:
        source: Published or mmengine checkpoint, a bare state dict, or safetensors.
        target: File to write, `{state_dict, meta}` or safetensors if the name ends so.
        source_size: Image size the embeddings were made for, N or (H, W).
        target_size: Image size to fit them to, N or (H, W).
        mode: How to resize, see `mmvheat.ops.resize_freq_embed`.
        key: Entry of the checkpoint to take, see `find_state_dict`.
        task: 'downstream' or 'classification', see `convert_state_dict`.
        force: Whether to replace an existing target, which may be the source.

    Returns:
        What was done.

    Raises:
        TypeError: If a size is neither N nor (H, W).
        ValueError: For whatever else is wrong, in one line; nothing is written then.
    """
    source_size, target_size = as_size(source_size), as_size(target_size)
    check_target(target, force)
    checkpoint = read_checkpoint(source)
    try:
        found = find_state_dict(checkpoint, key)
        tensors, report = convert_state_dict(found.tensors, source_size, target_size, mode, task)
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from error
    meta = {
        'source': Path(source).name,
        'key': found.key,
        'source_size': list(source_size),
        'target_size': list(target_size),
        'mode': mode,
        'task': task,
    }
    write_checkpoint(target, tensors, meta, force)
    return replace(report, left_out=found.left_out)
