"""Recognise what a checkpoint holds: where its state dict is and how its keys are called."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ['BACKBONE', 'SourceState', 'backbone_prefix', 'find_state_dict', 'mmpretrain_name']

BACKBONE = 'backbone.'

# The weights a file is about before their variant. With an EMA hook mmengine swaps the two when it
# saves: its state_dict is then the average that was evaluated, its ema_state_dict the raw weights.
_PREFERRED = ('model', 'state_dict', 'model_ema', 'ema_state_dict')


@dataclass(frozen=True)
class SourceState:
    """A state dict and where it was found.

    Attributes:
        key: Entry of the checkpoint that held it; empty if the file is the state dict itself.
        tensors: Tensors by name, nothing else.
        left_out: The checkpoint's other entries (optimizer, epoch, ...).
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
        ValueError: If there is no such entry, or no state dict in it.
    """
    candidates = [str(name) for name, value in checkpoint.items() if _has_tensors(value)]
    if key is not None and key not in candidates:
        kind = f'holds no state dict (a {type(checkpoint.get(key)).__name__})'
        raise ValueError(
            f'key {key!r} {kind if key in checkpoint else "is not in it"}; '
            f'{_offer(candidates) or "its tensors stand at the top: give no key"}'
        )
    if key is None:
        key = next((name for name in _PREFERRED if name in candidates), '')
    state = checkpoint[key] if key else checkpoint
    if not _has_tensors(state):
        entries = ', '.join(map(str, list(checkpoint)[:8])) or 'nothing'
        raise ValueError(
            f'no state dict under {", ".join(_PREFERRED)} (found: {entries}); '
            f'{_offer(candidates) or "give a checkpoint of a vHeat model"}'
        )
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    beside = checkpoint if key else [name for name in state if str(name) not in tensors]
    return SourceState(key, tensors, tuple(str(name) for name in beside if name != key))


def _has_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())


def _offer(candidates: list[str]) -> str:
    return f'choose one with --key: {", ".join(candidates)}' if candidates else ''


def backbone_prefix(names: Iterable[str]) -> str:
    """Tell what stands before a vHeat backbone's keys, '' or for example 'module.backbone.'.

    Args:
        names: Keys of a state dict.

    Returns:
        The prefix, with its dot.

    Raises:
        ValueError: If the model was folded for inference, has no frequency embeddings, is not
            vHeat, or holds several backbones.
    """
    names = list(names)
    folded = [name for name in names if name.endswith('.op.k_exp')]
    if folded:
        raise ValueError(
            f'already folded for inference ({folded[0]}): its frequency embeddings are gone; '
            'convert the training checkpoint'
        )
    embeds = _prefixes(r'freq_embed\.\d+$', names)
    operators = _prefixes(r'layers\.\d+\.\d+\.op\.', names)
    if operators and not embeds:
        raise ValueError(
            'vHeat layers without frequency embeddings (freq_embed.0, ...): '
            'convert the training checkpoint'
        )
    prefixes = [prefix for prefix in embeds if prefix in operators]
    if not prefixes:
        raise ValueError(
            'another model than vHeat: no freq_embed.* with layers.*.op.* among its '
            f'{len(names)} tensors (the first is {names[0] if names else "missing"}); '
            'give a checkpoint of a vHeat model'
        )
    if len(prefixes) > 1:
        raise ValueError(
            f'several vHeat backbones ({", ".join(map(repr, prefixes))}): '
            'save the one to convert in a file of its own'
        )
    return prefixes[0]


def _prefixes(pattern: str, names: Iterable[str]) -> list[str]:
    found = (re.match(rf'((?:.*\.)?){pattern}', name) for name in names)
    return list(dict.fromkeys(match[1] for match in found if match))


def mmpretrain_name(name: str, prefix: str, last_stage: int) -> str | None:
    """Give a key the name it has in an mmpretrain classifier.

    Args:
        name: Key in the source.
        prefix: What `backbone_prefix` says about the source.
        last_stage: Index of the last stage, whose output norm the classifier brings along.

    Returns:
        The name, or None if the key does not belong to the model (an EMA step counter, say).

    Raises:
        ValueError: If a published classifier has a layer it should not have.
    """
    owner = prefix[: -len(BACKBONE)] if prefix.endswith(BACKBONE) else prefix
    if not name.startswith(owner):
        return None
    name = name[len(owner) :]
    if owner != prefix:
        return name
    if not name.startswith('classifier.'):
        return BACKBONE + name
    layer, _, parameter = name[len('classifier.') :].partition('.')
    modules = {'0': f'{BACKBONE}outnorm{last_stage}', '3': 'head.fc'}
    if layer not in modules:
        raise ValueError(
            f'unknown layer {name}: expected classifier.0 and classifier.3; '
            'give a checkpoint of a vHeat classifier'
        )
    return f'{modules[layer]}.{parameter}'
