"""Convert a checkpoint file: read, find, convert, write."""

import os
from dataclasses import replace
from pathlib import Path

from mmvheat.errors import UserError

from .convert import as_size, change_form, convert_state_dict
from .formats import class_metadata, find_state_dict
from .names import model_kind
from .reading import read_checkpoint, shown_path
from .report import ConversionReport
from .writing import check_target, write_checkpoint

__all__ = ['change_file', 'convert_file']


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
        UserError: For whatever else is wrong, in one line; nothing is written then.
    """
    source_size, target_size = as_size(source_size), as_size(target_size)
    check_target(target, force)
    checkpoint = read_checkpoint(source)
    try:
        found = find_state_dict(checkpoint, key)
        tensors, report = convert_state_dict(found.tensors, source_size, target_size, mode, task)
    except UserError as error:
        raise UserError(f'{shown_path(source)}: {error}') from error
    meta = {
        'source': shown_path(Path(source).name),
        'key': found.key,
        'source_size': list(source_size),
        'target_size': list(target_size),
        'mode': mode,
        'task': task,
    }
    write_checkpoint(target, tensors, meta, force)
    return replace(report, left_out=found.left_out)


def change_file(
    source: str | os.PathLike,
    target: str | os.PathLike,
    form: str,
    target_size: int | tuple[int, int] | None = None,
    source_size: int | tuple[int, int] | None = None,
    mode: str = 'bicubic',
    key: str | None = None,
    force: bool = False,
) -> ConversionReport:
    """Give a vHeat checkpoint another form, file format or size.

    Args:
        source: Published or mmengine checkpoint, a bare state dict, or safetensors.
        target: File to write: safetensors if the name ends so, else `{model, meta}` for the
            published form and `{state_dict, meta}` for all others.
        form: 'published', 'classification', 'backbone' or 'downstream', see `change_form`.
        target_size: Image size to fit the embeddings to, N or (H, W); None leaves them.
        source_size: Image size they were made for, N or (H, W), to be checked; None for no check.
        mode: How to resize, see `mmvheat.ops.resize_freq_embed`.
        key: Entry of the checkpoint to take, see `find_state_dict`.
        force: Whether to replace an existing target, which may be the source.

    Returns:
        What was done. Names and colours of the classes stay in ``meta`` where the head stays.

    Raises:
        TypeError: If a size is neither N nor (H, W).
        UserError: For whatever else is wrong, in one line; nothing is written then.
    """
    check_target(target, force)
    checkpoint = read_checkpoint(source)
    try:
        found = find_state_dict(checkpoint, key)
        tensors, report = change_form(found.tensors, form, target_size, source_size, mode)
    except UserError as error:
        raise UserError(f'{shown_path(source)}: {error}') from error
    meta = {'source': shown_path(Path(source).name), 'key': found.key, 'form': form}
    if target_size is not None:
        meta |= {'target_size': list(as_size(target_size)), 'mode': mode}
    classes = class_metadata(checkpoint) if model_kind(tensors) != 'backbone' else {}
    entry = 'model' if form == 'published' else 'state_dict'
    write_checkpoint(target, tensors, meta | classes, force, entry)
    left_out = (name for name in found.left_out if not (classes and name == 'meta'))
    return replace(report, left_out=tuple(left_out))
