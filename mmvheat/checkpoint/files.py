"""Convert and fold checkpoint files: read, find the state dict, change it, write."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mmvheat.errors import UserError

from .convert import as_size, change_form, convert_state_dict
from .fold import fold_state_dict
from .formats import SourceState, class_metadata, find_state_dict
from .io.reading import about_file, read_checkpoint, shown_path
from .io.writing import check_target, write_checkpoint
from .names import model_kind
from .report import ConversionReport

__all__ = ['change_file', 'convert_file', 'fold_file']


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
    with about_file(source):
        found = find_state_dict(checkpoint, key)
        tensors, report = convert_state_dict(found.tensors, source_size, target_size, mode, task)
    meta = _origin(source, found)
    meta |= {'source_size': list(source_size), 'target_size': list(target_size)}
    write_checkpoint(target, tensors, meta | {'mode': mode, 'task': task}, force)
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
        source: As for `convert_file`.
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
    with about_file(source):
        found = find_state_dict(checkpoint, key)
        tensors, report = change_form(found.tensors, form, target_size, source_size, mode)
    meta = _origin(source, found) | {'form': form}
    if target_size is not None:
        meta |= {'target_size': list(as_size(target_size)), 'mode': mode}
    classes = class_metadata(checkpoint) if model_kind(tensors) != 'backbone' else {}
    entry = 'model' if form == 'published' else 'state_dict'
    write_checkpoint(target, tensors, meta | classes, force, entry)
    left_out = (name for name in found.left_out if not (classes and name == 'meta'))
    return replace(report, left_out=tuple(left_out))


def fold_file(
    source: str | os.PathLike,
    target: str | os.PathLike,
    size: int | tuple[int, int],
    key: str | None = None,
    force: bool = False,
) -> dict[str, Tensor]:
    """Fold a checkpoint file, for a backbone built with ``inference_form=True``.

    Args:
        source: As for `convert_file`.
        target: File to write, `{state_dict, meta}` or safetensors if the name ends so.
        size: Size of the images, N or (H, W).
        key: Entry of the checkpoint to take, see `find_state_dict`.
        force: Whether to replace an existing target, which may not be the source.

    Returns:
        The state dict that was written.

    Raises:
        TypeError: If the size is neither N nor (H, W).
        UserError: For whatever else is wrong, in one line; nothing is written then.
    """
    size = as_size(size)
    real = check_target(target, force)
    checkpoint = read_checkpoint(source)
    if real == Path(os.path.realpath(source)):
        raise UserError(
            f'{target} is the source: folding loses what training needs, name another output'
        )
    with about_file(source):
        found = find_state_dict(checkpoint, key)
        tensors = fold_state_dict(found.tensors, size)
    meta = _origin(source, found) | {'folded_for': list(size)} | class_metadata(checkpoint)
    write_checkpoint(target, tensors, meta, force)
    return tensors


def _origin(source: str | os.PathLike, found: SourceState) -> Mapping[str, Any]:
    """Note where a state dict comes from."""
    return {'source': shown_path(Path(source).name), 'key': found.key}
