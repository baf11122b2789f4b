"""Test-time augmentation of the three libraries, from a config that may not mention it."""

from copy import deepcopy
from importlib import import_module
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from mmvheat.errors import UserError, is_first_process

__all__ = ['use_tta']

_DEFAULT_MODELS = {
    'mmpretrain': 'AverageClsScoreTTA',
    'mmdet': 'mmvheat.InstanceTTAModel',
    'mmseg': 'SegTTAModel',
}


def use_tta(cfg: Config) -> None:
    """Wrap the model and replace the test pipeline, as the library's own ``--tta`` does.

    ``tta_model`` and ``tta_pipeline`` of the config are used; where absent, horizontal flipping
    and the library's way of merging. For mmdet that is :class:`.instance_tta.InstanceTTAModel`,
    which also takes the place of mmdet's ``DetTTAModel`` and its ``tta_cfg``: that one refuses
    models with masks.

    Raises:
        UserError: If the pipeline does not end by packing its results.
    """
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    model = cfg.get('tta_model') or ConfigDict(type=_DEFAULT_MODELS[cfg.default_scope])
    if cfg.default_scope == 'mmdet':
        import_module('mmvheat.engine.instance_tta')
        if _name(model) == 'DetTTAModel':
            model = ConfigDict(model, type=_DEFAULT_MODELS['mmdet'])
            if is_first_process():
                print_log(f'--tta: {model.type} merges in place of DetTTAModel.', 'current')
    dataset.pipeline = cfg.get('tta_pipeline') or _flipped(dataset.get('pipeline', []))
    _record_flips(dataset.pipeline)
    cfg.model = ConfigDict(model, module=cfg.model)


def _flipped(pipeline: list[ConfigDict]) -> list[ConfigDict]:
    """Turn a test pipeline into one that yields each image as it is and mirrored."""
    names = [_name(step) for step in pipeline]
    if not names or 'Pack' not in names[-1]:
        raise UserError(
            '--tta: the test pipeline does not end by packing its results, so how to flip is '
            'unclear: set tta_pipeline in the config'
        )
    # Padding comes after flipping: it must lie on the right and below in every view.
    place = names.index('Pad') if 'Pad' in names else len(names) - 1
    before, after = deepcopy(pipeline[:place]), deepcopy(pipeline[place:])
    # As it is comes first: the libraries take the ground truth from the first view.
    flips = [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)]
    augment = ConfigDict(type='TestTimeAug', transforms=[flips, *([step] for step in after)])
    return [*before, augment]


def _record_flips(node: Any) -> None:
    """Let whatever packs results keep how a view was flipped."""
    if isinstance(node, dict):
        if node.get('meta_keys'):
            keys = [*node['meta_keys'], 'flip', 'flip_direction']
            node['meta_keys'] = tuple(dict.fromkeys(keys))
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            _record_flips(child)


def _name(config: dict) -> str:
    """Name of the class that a config is for, without its scope."""
    kind = config.get('type')
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]
