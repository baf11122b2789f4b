"""Write a checkpoint so that there is always a whole file: the old one or the new one."""

import io
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmvheat.errors import UserError

__all__ = ['check_target', 'decode_metadata', 'write_checkpoint']


def check_target(path: str | os.PathLike, force: bool = False) -> Path:
    """Tell early whether a file could be written, and write nothing.

    Args:
        path: The file to write; a link stands for what it points to.
        force: Whether an existing file may be replaced.

    Returns:
        The path with its links resolved.

    Raises:
        UserError: If it exists and `force` is not given, is no regular file, or its folder is
            missing or read-only.
    """
    real = Path(os.path.realpath(path))
    try:
        if real.is_dir():
            raise UserError(f'{path} is a folder: name a file in it')
        if real.exists() and not real.is_file():
            raise UserError(f'{path} is not a regular file: name another output')
        if real.exists() and not force:
            raise UserError(f'{path} exists: give --force to replace it or name another output')
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror}') from error
    if not real.parent.is_dir():
        raise UserError(f'{path} cannot be written: make the folder {real.parent} first')
    if not os.access(real.parent, os.W_OK | os.X_OK):
        raise UserError(f'{path} cannot be written: its folder {real.parent} is read-only for you')
    return real


def write_checkpoint(
    path: str | os.PathLike,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    force: bool = False,
    entry: str = 'state_dict',
) -> None:
    """Write `{state_dict, meta}`, or safetensors if the name ends so.

    The data goes to a hidden file in the same folder, to the disk, and only then takes the name;
    a failure on the way removes the hidden file and leaves what was there.

    Args:
        path: The file to write; a link stands for what it points to.
        tensors: The state dict.
        meta: What to note beside it, plain values; safetensors keeps text as it is and the
            others as JSON.
        force: Whether to replace an existing file.
        entry: Entry to put the state dict under; safetensors has none.

    Raises:
        UserError: If `check_target` refuses the path, or writing fails.
    """
    target = check_target(path, force)
    data = _serialised(target, tensors, meta, entry)
    draft = target.with_name(f'.{uuid.uuid4().hex}.tmp')
    try:
        with draft.open('xb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        check_target(path, force)  # Serialising takes a while: someone may have been faster.
        os.replace(draft, target)
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror}') from error
    finally:
        # An interrupt is a way to get here too.
        draft.unlink(missing_ok=True)


def _serialised(
    target: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], entry: str
) -> bytes | memoryview:
    if target.suffix != '.safetensors':
        buffer = io.BytesIO()  # torch.save aborts the process if a disk fills up below it
        try:
            torch.save({entry: dict(tensors), 'meta': dict(meta)}, buffer)
        except RecursionError as error:
            raise UserError(
                f'{target} cannot be written: the metadata of its source are nested too deeply'
            ) from error
        return buffer.getbuffer()
    try:
        from safetensors import SafetensorError
        from safetensors.torch import save
    except ImportError as error:
        raise UserError(
            f'{target} needs safetensors: pip install "mmvheat[safetensors]"'
        ) from error
    apart = _apart(tensors)
    try:
        return save(apart, {'format': 'pt', **_encoded(meta)})
    except (SafetensorError, KeyError, ValueError) as error:
        dtypes = sorted({str(tensor.dtype).removeprefix('torch.') for tensor in apart.values()})
        raise UserError(
            f'{target} cannot hold these tensors ({", ".join(dtypes)}): safetensors says '
            f'{str(error) or type(error).__name__}; write a .pth'
        ) from error


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy the tensors that share memory or have gaps in it, which safetensors refuses."""
    apart, seen = {}, set()
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage()
        is_whole = tensor.is_contiguous() and memory.nbytes() == tensor.nbytes
        if not is_whole or memory.data_ptr() in seen or tensor.is_conj() or tensor.is_neg():
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        seen.add(memory.data_ptr())
        apart[name] = tensor
    return apart


def _encoded(meta: Mapping[str, Any]) -> dict[str, str]:
    """Make text of metadata; what JSON cannot say stays behind."""
    encoded = {}
    for name, value in meta.items():
        try:
            encoded[str(name)] = value if isinstance(value, str) else json.dumps(value)
        except (TypeError, ValueError, RecursionError):
            continue
    return encoded


def decode_metadata(encoded: Mapping[str, str] | None) -> dict[str, Any]:
    """Undo what `write_checkpoint` does to metadata that are dicts, in a safetensors file.

    Args:
        encoded: Metadata as the file has them, or None.

    Returns:
        The same, with dicts where the text is that of one: tools read class names off them.
    """
    meta = dict(encoded or {})
    for name, text in meta.items():
        if text.startswith('{'):
            try:
                meta[name] = json.loads(text)
            except (ValueError, RecursionError):
                continue  # Another tool's text, which only looks like it.
    return meta
