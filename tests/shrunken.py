"""A copy of any config that trains in seconds on a CPU, on the data of ``tiny_data``."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmvheat.models.arch import resolve_arch

__all__ = ['shrink']

DIMS = 8
# Of what is behind the backbone, where it has other widths than the backbone.
WIDTH = 16
WIDTHS = ('in_channels', 'out_channels', 'feat_channels', 'conv_out_channels', 'fc_out_channels')
SIZES = ('scale', 'scales', 'size', 'crop_size', 'stride')
# Sides of images from here on are divided by eight; the tiny data has 64 x 64.
LARGE = 128
CLASSES = {'mmpretrain': 'abc', 'mmdet': ('square', 'disc'), 'mmseg': ('wall', 'building')}


def shrink(path: Path, data: Path) -> Config:
    """Read a config and shrink its model, its images, its data and its schedule.

    Pipelines, losses, hooks, optimizer wrapper and test-time augmentation stay what they are.

    Args:
        path: A config of ``configs/``.
        data: Where ``make_tiny_data`` wrote its images.

    Returns:
        A config that trains for two iterations: one epoch, where the original counts epochs. One
        iteration or epoch more is the end of its schedule.
    """
    cfg = Config.fromfile(path)
    _shrink_model(cfg)
    _edit(cfg._cfg_dict, SIZES, _divide)
    classes = _use_tiny_data(cfg, data)
    _edit(cfg._cfg_dict, ('num_classes',), lambda _: len(classes))
    # mmseg's weighted loss fails at ignored pixels, which are most of the tiny data's.
    _edit(cfg.model, ('class_weight',), lambda _: None)
    _shorten(cfg)
    return cfg


def _edit(node: Any, keys: tuple[str, ...], change: Callable[[Any], Any]) -> None:
    """Change the values of all dictionary entries with these keys."""
    if isinstance(node, dict):
        for key in node:
            if key in keys:
                node[key] = change(node[key])
    if isinstance(node, dict | list | tuple):
        for child in node.values() if isinstance(node, dict) else node:
            _edit(child, keys, change)


def _each(value: Any, change: Callable[[int], int]) -> Any:
    """Change all integers of a nested list or tuple."""
    if isinstance(value, list | tuple):
        return type(value)(_each(item, change) for item in value)
    return change(value) if isinstance(value, int) else value


def _divide(sides: Any) -> Any:
    return _each(sides, lambda side: side // 8 if side >= LARGE else side)


def _shrink_model(cfg: Config) -> None:
    """Keep the kind of the blocks and every link between parts; all widths become small."""
    backbone = cfg.model.backbone
    arch = resolve_arch(backbone.arch)
    dims = [DIMS * 2**i for i in range(len(arch.dims))]
    backbone.arch = dict(asdict(arch), depths=[1] * len(dims), dims=dims)
    backbone.init_cfg = None
    # A function of the old width alone, so that widths which agreed agree still.
    narrow = dict(zip(arch.dims, dims, strict=True))
    channels = (*WIDTHS, 'channels')
    _edit(cfg.model, channels, lambda old: _each(old, lambda width: narrow.get(width, WIDTH)))
    # Random weights are sure of nothing: every box counts, but few are kept.
    _edit(cfg.model, ('score_thr',), lambda _: 0.0)
    if cfg.default_scope == 'mmdet':
        kept = cfg.model.test_cfg.get('rcnn', cfg.model.test_cfg)
        kept.max_per_img = 10


def _use_tiny_data(cfg: Config, data: Path) -> Any:
    """Point the loaders to the tiny data, two iterations of it; return the names of its classes."""
    scope, classes = cfg.default_scope, CLASSES[cfg.default_scope]
    for split, loader in (
        ('train', cfg.train_dataloader),
        ('val', cfg.get('val_dataloader')),
        ('val', cfg.test_dataloader),
    ):
        if loader is None:
            continue
        loader.batch_size = min(loader.batch_size, 2)
        loader.num_workers = 0
        dataset = loader.dataset
        dataset.data_root = str(data)
        dataset.indices = 4 if split == 'train' else 2
        if scope == 'mmpretrain':
            dataset.type = 'CustomDataset'
            dataset.pop('split', None)
            dataset.classes = list(classes)
            dataset.data_prefix = f'classes/{split}'
        elif scope == 'mmdet':
            dataset.metainfo = dict(classes=classes)
            dataset.ann_file = f'{split}.json'
            dataset.data_prefix = dict(img=f'scenes/{split}')
        else:
            # A part of ADE20K's names, so that its data set takes them.
            dataset.metainfo = dict(classes=classes)
            dataset.img_suffix = dataset.seg_map_suffix = '.png'
            dataset.data_prefix = dict(img_path=f'scenes/{split}', seg_map_path=f'labels/{split}')
    for name in ('val_evaluator', 'test_evaluator'):
        if scope == 'mmdet' and name in cfg:
            cfg[name].ann_file = str(data / 'val.json')
        elif scope == 'mmpretrain' and name in cfg:
            cfg[name].topk = (1,)
    return classes


def _shorten(cfg: Config) -> None:
    """Two iterations, then validate at the end of what comes after a resume."""
    loop = cfg.train_cfg
    by_epoch = 'max_epochs' in loop
    length = 1 if by_epoch else 2
    loop['max_epochs' if by_epoch else 'max_iters'] = length
    if 'val_interval' in loop:
        loop.val_interval = loop.val_begin = length + 1
    for scheduler in cfg.param_scheduler:
        in_epochs = scheduler.get('by_epoch', True)
        # One iteration of warm-up: an epoch has two.
        warmup = 1 if in_epochs else 2
        if scheduler.type == 'LinearLR':
            scheduler.end = warmup
        else:
            scheduler.begin = min(scheduler.get('begin', 0), warmup)
            scheduler.end = 2 * warmup
        if 'T_max' in scheduler:
            scheduler.T_max = scheduler.end - scheduler.begin
        if 'milestones' in scheduler:
            scheduler.milestones = [1]
    cfg.default_hooks.logger.interval = 1
