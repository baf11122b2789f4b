"""Say in the log how what a Runner loads fits its model."""

from typing import Any

from mmengine.hooks import Hook

from .weights_fit import check_start, check_weights_fit, report_weights, weights_of

__all__ = ['WeightsFitHook']


class WeightsFitHook(Hook):
    """Counts what matches, is resized, missing and unexpected, whenever a Runner loads a file.

    The tools hold the file to the model before that. A strategy builds its model too late for
    them: there the check is made here.
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
        report_weights(model, weights, path)
