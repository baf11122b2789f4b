"""Hold a checkpoint to a model: every key that does not fit is found, and said in one line."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from mmvheat.errors import UserError

__all__ = ['WeightsFit', 'check_start', 'check_weights_fit', 'compare_weights', 'describe_arch']

# Heads that only training uses: a checkpoint for testing may lack or have them.
_TRAINING_ONLY = ('auxiliary_head.',)
# Layers that have an output for every class, and how many outputs they have beside.
_CLASS_LAYERS = {'head.fc': 0, 'fc_cls': 1, 'conv_seg': 0}
_EMBEDDING = re.compile(r'(.*\.)?freq_embed\.\d+')
_BLOCK = re.compile(r'(?:.*\.)?layers\.(\d+)\.(\d+)\.op\..*')
_SHOWN = 3


@dataclass(frozen=True)
class WeightsFit:
    """What does not fit between a model and a checkpoint.

    Attributes:
        missing: Keys that the model wants and the checkpoint lacks.
        unexpected: Keys that the checkpoint has and the model does not want.
        misshaped: Shapes in the checkpoint and in the model by key.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def keys(self) -> list[str]:
        """All keys that do not fit."""
        return [*self.missing, *self.unexpected, *self.misshaped]

    def summary(self, shown: int = _SHOWN) -> str:
        """Count and name the keys of every kind, at most ``shown`` of each."""
        shapes = [f'{key} {had}, not {want}' for key, (had, want) in self.misshaped.items()]
        kinds = {
            'missing': self.missing,
            'unexpected': self.unexpected,
            'of another shape': shapes,
        }
        return '; '.join(
            f'{len(found)} {kind} ({", ".join(found[:shown])}{", ..." * (len(found) > shown)})'
            for kind, found in kinds.items()
            if found
        )


def compare_weights(
    expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], ignored: tuple[str, ...] = ()
) -> WeightsFit:
    """Compare two state dicts by keys and shapes.

    Args:
        expected: State dict of the model.
        weights: State dict of the checkpoint. Frequency embeddings may have another height and
            width, which the backbone fits while it loads.
        ignored: Starts of keys that may be missing or unexpected.

    Returns:
        What does not fit.
    """
    misshaped = {}
    for name in expected.keys() & weights.keys():
        given, wanted = tuple(weights[name].shape), tuple(expected[name].shape)
        resizes = _EMBEDDING.fullmatch(name) and len(given) == 3 and given[2] == wanted[2]
        if given != wanted and not resizes:
            misshaped[name] = given, wanted

    def beyond(names: Iterable[str], others: Mapping[str, Tensor]) -> tuple[str, ...]:
        # A counter that mmengine, too, lets a checkpoint lack.
        return tuple(
            name
            for name in names
            if name not in others
            and not name.startswith(ignored)
            and not name.endswith('num_batches_tracked')
        )

    missing, unexpected = beyond(expected, weights), beyond(weights, expected)
    return WeightsFit(missing, unexpected, dict(sorted(misshaped.items())))


def describe_arch(weights: Mapping[str, Tensor]) -> str:
    """Describe the vHeat in a state dict, '' if there is none."""
    blocks: dict[int, set[str]] = {}
    for match in filter(None, map(_BLOCK.fullmatch, weights)):
        blocks.setdefault(int(match[1]), set()).add(match[2])
    dims = {
        int(name.rpartition('.')[2]): tensor.shape[-1]
        for name, tensor in weights.items()
        if _EMBEDDING.fullmatch(name) and tensor.dim() == 3
    }
    if not blocks or not dims:
        return ''
    depths = ', '.join(str(len(blocks[stage])) for stage in sorted(blocks))
    widths = ', '.join(str(dims[stage]) for stage in sorted(dims))
    scaled = any(name.endswith('.gamma1') for name in weights)
    return f'a vHeat of depths {depths}, widths {widths}, {"with" if scaled else "no"} layer scale'


def check_weights_fit(model: nn.Module, weights: Mapping[str, Tensor], path: str) -> None:
    """Check that a checkpoint fits a model key by key, as testing and resuming need it.

    Args:
        model: What the Runner built, maybe in a distributed or TTA wrapper.
        weights: State dict of the checkpoint.
        path: Its name, for the message.

    Raises:
        UserError: If a key is missing, unexpected or of another shape. Heads that only
            training uses do not count.
    """
    expected = _unwrap(model).state_dict()
    fit = compare_weights(expected, weights, _TRAINING_ONLY)
    if fit.keys():
        raise UserError(
            f'{path} does not fit the config{_sides(fit, expected, weights)}: {fit.summary()}; '
            'give a checkpoint that was trained with this config'
        )


def check_start(model: nn.Module, weights: Mapping[str, Tensor], path: str) -> None:
    """Check that a checkpoint can start a training, where heads may differ.

    Heads that differ, or necks and heads that it lacks, are one line of warning; all their keys
    are in the log at its debug level.

    Args:
        model: What the Runner built, maybe in a distributed wrapper.
        weights: State dict of the checkpoint.
        path: Its name, for the message.

    Raises:
        UserError: If its backbone is another one, or it is a classifier's and the model is
            none.
    """
    expected = _unwrap(model).state_dict()
    fit = compare_weights(expected, weights)
    if not fit.keys():
        return
    sides = _sides(fit, expected, weights)
    ours = [key for key in fit.keys() if key.startswith('backbone.') and '.outnorm' not in key]
    if ours or not expected.keys() & weights.keys():
        raise UserError(
            f'load_from={path} does not fit the backbone of the config{sides}: {fit.summary()}; '
            'give a checkpoint of the same backbone'
        )
    if 'head.fc.weight' in weights and 'head.fc.weight' not in expected:
        raise UserError(
            f'load_from={path} is a classifier, the config wants a {type(_unwrap(model)).__name__}:'
            " give it as the backbone's init_cfg=dict(type='Pretrained', checkpoint=..., "
            "prefix='backbone.')"
        )
    print_log(
        f'load_from={path} does not fill the whole model{sides}: {fit.summary()}; '
        'what is missing or of another shape starts anew',
        'current',
        level=30,
    )
    print_log(f'all keys: {fit.summary(len(fit.keys()))}', 'current', level=10)


def _unwrap(model: nn.Module) -> nn.Module:
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _sides(fit: WeightsFit, expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Name what the checkpoint and the config are, where that explains the difference."""
    given, wanted = describe_arch(weights), describe_arch(expected)
    if given and given != wanted and any('outnorm' not in key for key in fit.keys()):
        return f' (the checkpoint has {given}, the config {wanted or "no vHeat"})'
    for key, shapes in fit.misshaped.items():
        layer = key.rpartition('.')[0]
        for name, beside in _CLASS_LAYERS.items():
            if layer.endswith(name):
                had, want = (shape[0] - beside for shape in shapes)
                return f' (the checkpoint has {had} classes, the config {want})'
    return ''
