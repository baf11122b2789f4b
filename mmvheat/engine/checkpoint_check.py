"""Refuse a checkpoint that mmengine would take with a warning, or fail on with a traceback."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmvheat.checkpoint import read_checkpoint

from .errors import CommandLineError

__all__ = ['check_weights_fit', 'find_resumable', 'read_resumable', 'read_weights']

# Heads that only training uses: a checkpoint for testing may lack them.
_TRAINING_ONLY = ('auxiliary_head',)


def _read(path: str) -> dict[str, Any]:
    try:
        if '://' in path:
            return CheckpointLoader.load_checkpoint(path, map_location='cpu')
        return read_checkpoint(path)
    except ValueError as error:
        raise CommandLineError(str(error)) from error


def read_weights(path: str) -> dict[str, Tensor]:
    """Read the state dict that mmengine would load from a file or URL.

    Raises:
        CommandLineError: If the file is missing, damaged, unsafe or holds no tensors.
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
        raise CommandLineError(
            f'{path} has no state dict where mmengine looks for it (it holds {found}); '
            'convert a published file with interpolate4downstream.py first'
        )
    return weights


def read_resumable(path: str) -> dict[str, Any]:
    """Read a checkpoint that training saved.

    Raises:
        CommandLineError: If it is none.
    """
    checkpoint = _read(path)
    needed = ('state_dict', 'meta', 'message_hub', 'optimizer')
    missing = [name for name in needed if name not in checkpoint]
    if missing or not {'epoch', 'iter'} <= set(checkpoint['meta']):
        lacks = ', '.join(missing) or 'epoch and iter'
        raise CommandLineError(
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
        except CommandLineError:
            continue
    return None


def check_weights_fit(model: nn.Module, weights: Mapping[str, Tensor], path: str) -> None:
    """Check that every part of a model that testing uses gets weights from a checkpoint.

    Args:
        model: What the Runner built, maybe in a distributed or TTA wrapper.
        weights: Content of the checkpoint.
        path: Its name, for the message.

    Raises:
        CommandLineError: If a part (backbone, neck, a head) gets nothing, or a tensor outside the
            backbone has another shape. Backbones may resize theirs while loading.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    expected = model.state_dict()
    empty = []
    for part, child in model.named_children():
        names = [f'{part}.{name}' for name, _ in child.named_parameters()]
        if names and part not in _TRAINING_ONLY and not any(name in weights for name in names):
            empty.append(part)
    if empty:
        raise CommandLineError(
            f'{path} has no weights for {", ".join(empty)} of {type(model).__name__} (it holds '
            f'{", ".join(list(weights)[:2])}, ...): give one that was trained with this config'
        )
    for name, tensor in weights.items():
        if name in expected and not name.startswith('backbone.'):
            given, wanted = tuple(tensor.shape), tuple(expected[name].shape)
            if given != wanted:
                raise CommandLineError(
                    f'{path}: {name} has shape {given}, the config wants {wanted}: '
                    'give a checkpoint that was trained with this config'
                )
