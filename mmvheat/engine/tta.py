"""Test-time augmentation of the three libraries, from a config that may not mention it."""

from copy import deepcopy
from typing import Any

from mmengine.config import Config, ConfigDict

from .errors import CommandLineError

__all__ = ['use_tta']

_DEFAULT_MODELS = {
    'mmpretrain': dict(type='AverageClsScoreTTA'),
    'mmdet': dict(
        type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    ),
    'mmseg': dict(type='SegTTAModel'),
}
_BOXES_ONLY = ('DetTTAModel', 'mmdet.DetTTAModel')


def use_tta(cfg: Config) -> None:
    """Wrap the model and replace the test pipeline, as the library's own ``--tta`` does.

    ``tta_model`` and ``tta_pipeline`` of the config are used; where absent, horizontal flipping
    and the library's way of merging.

    Raises:
        CommandLineError: If the merging cannot treat the model's masks, or the pipeline does not
            end by packing its results.
    """
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    model = cfg.get('tta_model') or ConfigDict(_DEFAULT_MODELS[cfg.default_scope])
    if model.get('type') in _BOXES_ONLY and _has_masks(cfg.model):
        raise CommandLineError(
            f'--tta: {model["type"]} merges boxes but no masks, and this model has a mask head: '
            'test without --tta, or set a tta_model that merges masks'
        )
    pipeline = cfg.get('tta_pipeline') or _flipped(dataset.get('pipeline', []))
    cfg.model = ConfigDict(**model, module=cfg.model)
    dataset.pipeline = pipeline


def _flipped(pipeline: list[ConfigDict]) -> list[ConfigDict]:
    """Turn a test pipeline into one that yields each image as it is and mirrored."""
    if not pipeline or 'Pack' not in str(pipeline[-1].get('type')):
        raise CommandLineError(
            '--tta: the test pipeline does not end by packing its results, so how to flip is '
            'unclear: set tta_pipeline in the config'
        )
    pack = deepcopy(pipeline[-1])
    if pack.type.endswith('PackDetInputs'):
        pack.meta_keys = (
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
            'flip',
            'flip_direction',
        )
    # As it is comes first: mmseg takes the ground truth from the first view.
    flips = [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)]
    augment = ConfigDict(type='TestTimeAug', transforms=[flips, [pack]])
    return [*deepcopy(pipeline[:-1]), augment]


def _has_masks(model: Any) -> bool:
    if not isinstance(model, dict):
        return False
    return bool(model.get('mask_head')) or any(_has_masks(child) for child in model.values())
