"""Write a checkpoint so that there is always a whole file: the old one or the new one."""

import io
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

__all__ = ['check_target', 'write_checkpoint']

Meta = Mapping[str, 'str | int | list[int]']


def check_target(path: str | os.PathLike, force: bool = False) -> Path:
    """Tell early whether a file could be written, and write nothing.

    Args:
        path: The file to write; a link stands for what it points to.
        force: Whether an existing file may be replaced.

    Returns:
        The path with its links resolved.

    Raises:
        ValueError: If it exists and `force` is not given, is no regular file, or its folder is
            missing or read-only.
    """
    real = Path(os.path.realpath(path))
    try:
        if real.is_dir():
            raise ValueError(f'{path} is a folder: name a file in it')
        if real.exists() and not real.is_file():
            raise ValueError(f'{path} is not a regular file: name another output')
        if real.exists() and not force:
            raise ValueError(f'{path} exists: give --force to replace it or name another output')
    except OSError as error:
        raise ValueError(f'{path} cannot be written: {error.strerror}') from error
    if not real.parent.is_dir():
        raise ValueError(f'{path} cannot be written: make the folder {real.parent} first')
    if not os.access(real.parent, os.W_OK | os.X_OK):
        raise ValueError(f'{path} cannot be written: its folder {real.parent} is read-only for you')
    return real


def write_checkpoint(
    path: str | os.PathLike, tensors: Mapping[str, Tensor], meta: Meta, force: bool = False
) -> None:
    """Write `{state_dict, meta}`, or safetensors if the name ends so.

    The data goes to a hidden file in the same folder, to the disk, and only then takes the name;
    a failure on the way removes the hidden file and leaves what was there.

    Args:
        path: The file to write; a link stands for what it points to.
        tensors: The state dict.
        meta: What to note beside it; safetensors keeps it as strings.
        force: Whether to replace an existing file.

    Raises:
        ValueError: If `check_target` refuses the path, or writing fails.
    """
    target = check_target(path, force)
    data = _serialised(target, tensors, meta)
    draft = target.with_name(f'.{uuid.uuid4().hex}.tmp')
    try:
        with draft.open('xb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        check_target(path, force)  # Serialising takes a while: someone may have been faster.
        os.replace(draft, target)
    except OSError as error:
        raise ValueError(f'{path} cannot be written: {error.strerror}') from error
    finally:
        # An interrupt is a way to get here too.
        draft.unlink(missing_ok=True)


def _serialised(target: Path, tensors: Mapping[str, Tensor], meta: Meta) -> bytes:
    if target.suffix == '.safetensors':
        try:
            from safetensors.torch import save
        except ImportError as error:
            raise ValueError(
                f'{target} needs safetensors: pip install "mmvheat[safetensors]"'
            ) from error
        # It refuses tensors that share memory, which tied weights do.
        apart = {n: t.clone(memory_format=torch.contiguous_format) for n, t in tensors.items()}
        return save(apart, {'format': 'pt', **{name: str(value) for name, value in meta.items()}})
    buffer = io.BytesIO()  # torch.save aborts the process if a disk fills up below it
    torch.save({'state_dict': dict(tensors), 'meta': dict(meta)}, buffer)
    return buffer.getvalue()
