"""Read a checkpoint for the tools: whatever is wrong with the file is one clear line."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmengine.runner import CheckpointLoader
from torch import Tensor

from mmvheat.checkpoint.download import download, is_url
from mmvheat.errors import UserError

from .stack_fixes import load_from_http, load_from_local
from .weights_fit import weights_of

__all__ = ['find_resumable', 'read_resumable', 'read_weights']


def _read(path: str) -> dict[str, Any]:
    """Look at a checkpoint: the data of its tensors stay in the file until they are used."""
    if is_url(path):
        return load_from_http(path, mmap=True)
    if '://' in path:
        return CheckpointLoader.load_checkpoint(path, map_location='cpu')
    return load_from_local(path, mmap=True)


def read_weights(path: str) -> dict[str, Tensor]:
    """Look at the state dict that mmengine would load from a file or URL.

    Args:
        path: Path, URL or another name that mmengine takes.

    Returns:
        Keys and shapes: tensors on the meta device, without data.

    Raises:
        UserError: If the file is missing, damaged, unsafe or holds no tensors.
    """
    try:
        found = os.stat(download(path) if is_url(path) else os.path.expanduser(path))
    except OSError:
        return _read_weights(path)
    # The same file is looked at once, by the check of a config and by that of the model.
    return dict(_look(path, found.st_ino, found.st_size, found.st_mtime_ns))


@lru_cache(maxsize=8)
def _look(path: str, *version: int) -> dict[str, Tensor]:
    return _read_weights(path)


def _read_weights(path: str) -> dict[str, Tensor]:
    checkpoint = _read(path)
    weights = {name: tensor.to('meta') for name, tensor in weights_of(checkpoint).items()}
    if not weights:
        found = ', '.join(map(str, list(checkpoint)[:5])) or 'nothing'
        raise UserError(
            f'{path} has no state dict where mmengine looks for it (it holds {found}); '
            'give a checkpoint of mmengine, or a published one of vHeat'
        )
    return weights


def read_resumable(path: str) -> dict[str, Any]:
    """Read a checkpoint that training saved.

    Raises:
        UserError: If it is none.
    """
    checkpoint = _read(path)
    needed = ('state_dict', 'meta', 'message_hub', 'optimizer')
    missing = [name for name in needed if name not in checkpoint]
    if missing or not {'epoch', 'iter'} <= set(checkpoint['meta']):
        lacks = ', '.join(missing) or 'epoch and iter'
        raise UserError(
            f'{path} lacks {lacks}: --resume needs a checkpoint that training saved; '
            f'to start from these weights use --cfg-options load_from={path}'
        )
    return checkpoint


def find_resumable(work_dir: str) -> tuple[str, dict[str, Any]] | None:
    """Find the newest whole checkpoint of a work dir.

    The file ``last_checkpoint`` names is tried first, then all others by iteration and epoch: a
    kill may leave that pointer, or with mmengine's own hook a checkpoint, half-written.

    Returns:
        Its path and content, or None if there is none.
    """
    folder = Path(work_dir)
    numbered = [
        (int(path.stem.rpartition('_')[2]), path)
        for pattern in ('epoch_*.pth', 'iter_*.pth')
        for path in folder.glob(pattern)
        if path.stem.rpartition('_')[2].isdigit()
    ]
    candidates = [str(path) for _, path in sorted(numbered, reverse=True)]
    pointer = folder / 'last_checkpoint'
    if pointer.is_file() and (named := pointer.read_text().strip()):
        candidates.insert(0, named)
    for path in candidates:
        try:
            return path, read_resumable(path)
        except ValueError:
            continue
    return None
