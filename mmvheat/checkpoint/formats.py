"""Find what a checkpoint holds: its state dict, and what it says about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmvheat.errors import UserError

from .names import shown

__all__ = [
    'RESUMABLE_ENTRIES',
    'SourceState',
    'class_metadata',
    'class_names',
    'find_state_dict',
    'metadata',
]

# What a checkpoint holds that mmengine resumes a training from.
RESUMABLE_ENTRIES = ('state_dict', 'meta', 'message_hub', 'optimizer')

# The weights a file is about before their variant. With an EMA hook mmengine swaps the two when it
# saves: its state_dict is then the average that was evaluated, its ema_state_dict the raw weights.
_PREFERRED = ('model', 'state_dict', 'model_ema', 'ema_state_dict')
# What later tools read off a checkpoint, mmengine's and mmcv's: names and colours of the classes.
_CLASS_METADATA = ('dataset_meta', 'CLASSES', 'PALETTE')


@dataclass(frozen=True)
class SourceState:
    """A state dict and where it was found.

    Attributes:
        key: Entry of the checkpoint that held it; empty if the file is the state dict itself.
        tensors: Tensors by name, nothing else.
        left_out: The checkpoint's other entries (optimizer, epoch, ...), and what stands among the
            tensors and is none.
    """

    key: str
    tensors: dict[str, Tensor]
    left_out: tuple[str, ...]


def find_state_dict(checkpoint: Mapping[str, Any], key: str | None = None) -> SourceState:
    """Find the state dict of a checkpoint.

    Args:
        checkpoint: What the file held.
        key: Entry to take; None takes the first of 'model', 'state_dict', 'model_ema',
            'ema_state_dict', or else the checkpoint itself if it holds tensors.

    Returns:
        The state dict and its place.

    Raises:
        UserError: If there is no such entry, no state dict in it, or one with tensors that are
            not plain numbers in memory.
    """
    candidates = [
        name for name, value in checkpoint.items() if type(name) is str and _has_tensors(value)
    ]
    if key is not None and key not in candidates:
        kind = f'holds no state dict (a {type(checkpoint.get(key)).__name__})'
        raise UserError(
            f'key {key!r} {kind if key in checkpoint else "is not in it"}; '
            f'{_offer(candidates) or "its tensors stand at the top: give no key"}'
        )
    if key is None:
        key = next((name for name in _PREFERRED if name in candidates), '')
    state = checkpoint[key] if key else checkpoint
    if not _has_tensors(state):
        entries = ', '.join(map(shown, list(checkpoint)[:8])) or 'nothing'
        raise UserError(
            f'no state dict under {", ".join(_PREFERRED)} (found: {entries}); '
            f'{_offer(candidates) or "give a checkpoint of a vHeat model"}'
        )
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        _check_tensor(name, tensor)
    others = [shown(name) for name in state if name not in tensors]
    if key:
        beside = [shown(name) for name in checkpoint if name != key]
        others = beside + [f'{shown(key)}.{name}' for name in others]
    return SourceState(key, tensors, tuple(others))


def _has_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())


def _offer(candidates: list[str]) -> str:
    shortened = ', '.join(map(shown, candidates[:8]))
    return f'choose one with --key: {shortened}' if candidates else ''


def _check_tensor(name: Any, tensor: Tensor) -> None:
    """Refuse names and tensors that no module of a model has."""
    if type(name) is not str:
        raise UserError(
            f'a tensor is called {shown(name)!r}, a {type(name).__name__}, expected text: '
            'give the state dict of a model'
        )
    # Other kinds hold no values, or values that copying and comparing would take for others.
    if tensor.is_meta:
        kind = 'on the meta device, without values'
    elif tensor.layout is not torch.strided:
        kind = f'stored as {tensor.layout}'
    elif tensor.is_quantized:
        kind = f'quantised ({tensor.dtype})'
    elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        kind = f'{tuple(tensor.shape)} of values that are repeated, not stored'
    else:
        return
    raise UserError(
        f'{shown(name)} is {kind}, expected a plain tensor: save the state dict of the model itself'
    )


def metadata(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Give a checkpoint's ``meta``, empty where it has none or something else stands there."""
    meta = checkpoint.get('meta')
    return dict(meta) if isinstance(meta, Mapping) else {}


def class_metadata(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Take what a test reads off a checkpoint from its ``meta``: names and colours of classes."""
    meta = metadata(checkpoint)
    return {name: meta[name] for name in _CLASS_METADATA if meta.get(name) is not None}


def class_names(checkpoint: Mapping[str, Any]) -> tuple[str, ...]:
    """Read the names of the classes off mmengine's or mmcv's metadata; empty if there are none."""
    meta = metadata(checkpoint)
    dataset = meta.get('dataset_meta')
    dataset = dataset if isinstance(dataset, Mapping) else {}
    names = dataset.get('classes') or dataset.get('CLASSES') or meta.get('CLASSES') or ()
    return tuple(map(str, names)) if isinstance(names, (list, tuple)) else ()
