"""Read a checkpoint for the tools: whatever is wrong with the file is one clear line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.runner import CheckpointLoader
from torch import Tensor

from mmvheat.checkpoint import as_mmengine_checkpoint, read_checkpoint
from mmvheat.errors import UserError

__all__ = ['find_resumable', 'read_resumable', 'read_weights']


def _read(path: str) -> dict[str, Any]:
    try:
        if '://' in path:
            return CheckpointLoader.load_checkpoint(path, map_location='cpu')
        checkpoint = read_checkpoint(path)
    except ValueError as error:
        raise UserError(str(error)) from error
    try:
        return as_mmengine_checkpoint(checkpoint)
    except ValueError as error:
        raise UserError(f'{path}: {error}') from error


def read_weights(path: str) -> dict[str, Tensor]:
    """Read the state dict that mmengine would load from a file or URL.

    Raises:
        UserError: If the file is missing, damaged, unsafe or holds no tensors.
    """
    checkpoint = _read(path)
    state = checkpoint.get('state_dict', checkpoint)
    weights = {}
    if isinstance(state, Mapping):
        weights = {
            str(name).removeprefix('module.'): tensor
            for name, tensor in state.items()
            if isinstance(tensor, Tensor)
        }
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
        except UserError:
            continue
    return None
