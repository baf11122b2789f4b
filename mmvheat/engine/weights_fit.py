"""Compare a checkpoint with a model, and report every key that does not fit in one line."""

from collections.abc import Mapping
from logging import DEBUG, INFO, WARNING
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch import Size, Tensor, nn

from mmvheat.checkpoint.describe import arch_in_words
from mmvheat.checkpoint.fit import WeightsFit, compare_weights
from mmvheat.checkpoint.names import BACKBONE, OUTPUT_NORM, classes_of, find, loaded_name
from mmvheat.errors import UserError

from .distributed import unwrapped

__all__ = [
    'WeightsFitHook',
    'check_resumed',
    'check_start',
    'check_weights_fit',
    'report_weights',
    'weights_of',
]

Model = nn.Module | Mapping[str, Size]

# Heads that only training uses: a checkpoint for testing may lack or have them.
_TRAINING_ONLY = ('auxiliary_head.',)


def weights_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Take out of a checkpoint what mmengine loads into a model, {} if there is nothing.

    Args:
        checkpoint: With ``state_dict``, or the state dict itself.
    """
    state = checkpoint.get('state_dict', checkpoint)
    if not isinstance(state, Mapping):
        return {}
    return {
        loaded_name(name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)
    }


def check_weights_fit(model: Model, weights: Mapping[str, Tensor], path: str) -> None:
    """Check that a checkpoint fits a model key by key, as testing and resuming need it.

    Args:
        model: What the Runner built, maybe in a distributed or TTA wrapper, or the shapes of its
            state dict.
        weights: State dict of the checkpoint.
        path: Its name, for the message.

    Raises:
        UserError: If a key is missing, unexpected or of another shape. Heads that only training
            uses do not count.
    """
    expected = _state_of(model)
    fit = compare_weights(expected, weights, _TRAINING_ONLY)
    if fit.keys():
        raise UserError(
            f'{path} does not fit the config{_sides(fit, expected, weights)}: {fit.summary()}; '
            'give a checkpoint that was trained with this config'
        )


def check_start(model: Model, weights: Mapping[str, Tensor], path: str) -> None:
    """Check that a checkpoint can start a training, where heads may differ.

    Args:
        model: What the Runner built, maybe in a distributed wrapper, or the shapes of its state
            dict.
        weights: State dict of the checkpoint.
        path: Its name, for the message.

    Raises:
        UserError: If its backbone is another one, or it is a classifier's and the model is none.
    """
    expected = _state_of(model)
    fit = compare_weights(expected, weights)
    if not fit.keys():
        return
    sides = _sides(fit, expected, weights)
    ours = [key for key in fit.keys() if key.startswith(BACKBONE) and not find(OUTPUT_NORM, key)]
    if ours or not expected.keys() & weights.keys():
        raise UserError(
            f'load_from={path} does not fit the backbone of the config{sides}: {fit.summary()}; '
            'give a checkpoint of the same backbone'
        )
    if 'head.fc.weight' in weights and 'head.fc.weight' not in expected:
        raise UserError(
            f'load_from={path} is a classifier, the model of the config is none: give it as the '
            "backbone's init_cfg=dict(type='Pretrained', checkpoint=..., prefix='backbone.')"
        )


def check_resumed(model: Model, weights: Mapping[str, Tensor], path: str) -> None:
    """Check that a training goes on with weights of the same shapes, as its optimizer needs them.

    An optimizer that has other shapes in its state ends in the middle of a step, without a word.

    Args:
        model: What the Runner built, maybe in a distributed wrapper, or the shapes of its state
            dict.
        weights: State dict of the checkpoint, which fits but for what the backbone fits itself.
        path: Its name, for the message.

    Raises:
        UserError: If embeddings have another size, or the first convolution other channels.
    """
    fit = compare_weights(_state_of(model), weights)
    changed = fit.adapted | fit.resized
    if changed:
        name, (had, want) = next(iter(changed.items()))
        raise UserError(
            f'{path} was trained with another img_size or in_channels ({name} {had}, not {want}), '
            'and so was its optimizer: resume with the config it was trained with, or start from '
            f'its weights, --cfg-options load_from={path}'
        )


def report_weights(model: Model, weights: Mapping[str, Tensor], path: str) -> None:
    """Count in one log line what of a checkpoint fits a model; a warning if not all does.

    All keys that do not fit are in the log at its debug level.

    Args:
        model: What the Runner built, maybe in a distributed or TTA wrapper, or the shapes of its
            state dict.
        weights: State dict of the checkpoint.
        path: Its name.
    """
    expected = _state_of(model)
    fit = compare_weights(expected, weights)
    line = f'Load {path}: {fit.counts()}{_sides(fit, expected, weights)}'
    if fit.missing or fit.misshaped:
        line += '; what is missing or of another shape starts anew'
    print_log(line, 'current', WARNING if fit.keys() else INFO)
    if fit.keys():
        print_log(f'all keys that do not fit: {fit.summary(len(fit.keys()))}', 'current', DEBUG)


def _state_of(model: Model) -> Mapping[str, Tensor | Size]:
    return unwrapped(model).state_dict() if isinstance(model, nn.Module) else model


def _sides(
    fit: WeightsFit, expected: Mapping[str, Tensor | Size], weights: Mapping[str, Tensor]
) -> str:
    """Name what the checkpoint and the config are, where that explains the difference."""
    given, wanted = arch_in_words(weights), arch_in_words(expected)
    if given and given != wanted and not all(find(OUTPUT_NORM, key) for key in fit.keys()):
        return f' (the checkpoint has {given}, the config {wanted or "no vHeat"})'
    for key, shapes in fit.misshaped.items():
        had, want = (classes_of(key.rpartition('.')[0], shape[0]) for shape in shapes)
        if had is not None:
            return f' (the checkpoint has {had} classes, the config {want})'
    return ''


class WeightsFitHook(Hook):
    """Counts what matches, is resized, missing and unexpected, whenever a Runner loads a file.

    The tools compare the file with the model before that. A strategy builds its model too late for
    them, so the check is made here.
    """

    # Before hooks that take a part of the checkpoint for themselves.
    priority = 'VERY_HIGH'

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Check and count, and see to it that no code of the checkpoint's runs."""
        if isinstance(checkpoint.get('meta'), dict):
            # mmengine would run it, for the GPUs that mmcv's configs of old name in it.
            checkpoint['meta'].pop('config', None)
        weights, path = weights_of(checkpoint), runner._load_from
        model = getattr(getattr(runner, 'strategy', None), 'weight_shapes', None) or runner.model
        starts = runner._train_dataloader is not None and not runner._resume
        if hasattr(runner, 'strategy'):
            (check_start if starts else check_weights_fit)(model, weights, path)
        if runner._resume:
            check_resumed(model, weights, path)
        report_weights(model, weights, path)
