"""Every row of the published tables has the published recipe."""

from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, DefaultScope
from shrunken import shrink
from torch import nn

pytest.importorskip('mmcv')

CONFIGS = Path(__file__).parents[2] / 'configs'
FAMILIES = ('classification', 'detection', 'segmentation')
FULL_SIZE = [path for family in FAMILIES for path in sorted((CONFIGS / family).glob('*.py'))]

# arch, drop path, size of the embeddings
ROWS = {
    'classification/vheat-tiny_16xb128_in1k': ('tiny', 0.1, 224),
    'classification/vheat-small_16xb128_in1k': ('small', 0.3, 224),
    'classification/vheat-base_16xb128_in1k': ('base', 0.5, 224),
    'detection/mask-rcnn_vheat-t_fpn_1x_coco': ('tiny', 0.1, 512),
    'detection/mask-rcnn_vheat-s_fpn_1x_coco': ('small', 0.3, 512),
    'detection/mask-rcnn_vheat-b_fpn_1x_coco': ('base', 0.5, 512),
    'detection/mask-rcnn_vheat-t_fpn_ms-3x_coco': ('tiny', 0.2, 224),
    'detection/mask-rcnn_vheat-s_fpn_ms-3x_coco': ('small', 0.4, 512),
    'segmentation/vheat-t_upernet_8xb2-160k_ade20k-512x512': ('tiny', 0.3, 512),
    'segmentation/vheat-s_upernet_8xb2-160k_ade20k-512x512': ('small', 0.4, 512),
    'segmentation/vheat-b_upernet_8xb2-160k_ade20k-512x512': ('base', 0.5, 512),
}
PUBLISHED = [CONFIGS / f'{name}.py' for name in ROWS]


# Not to be written to.
read = cache(Config.fromfile)


def of(family: str) -> pytest.MarkDecorator:
    paths = [path for path in PUBLISHED if path.parent.name == family]
    return pytest.mark.parametrize('path', paths, ids=lambda path: path.stem)


def steps(pipeline: list[ConfigDict]) -> dict[str, ConfigDict]:
    return {step.type: step for step in pipeline}


@pytest.mark.parametrize('name', ROWS)
def test_backbone(name):
    backbone = read(CONFIGS / f'{name}.py').model.backbone
    assert (backbone.arch, backbone.drop_path_rate, backbone.img_size) == ROWS[name]
    if not name.startswith('classification'):
        arch, _, size = ROWS[name]
        assert backbone.init_cfg == dict(
            type='Pretrained',
            checkpoint=f'checkpoints/vheat-{arch}_in1k_{size}px.pth',
            prefix='backbone.',
        )


@of('classification')
def test_classification(path):
    cfg = read(path)
    wrapper = cfg.optim_wrapper
    assert wrapper.type == 'AmpOptimWrapper' and wrapper.clip_grad == dict(max_norm=5.0)
    assert wrapper.optimizer == dict(type='AdamW', lr=2e-3, betas=(0.9, 0.999), weight_decay=0.08)
    assert cfg.train_cfg.max_epochs == 300
    assert cfg.train_dataloader.batch_size == 128 and cfg.auto_scale_lr.base_batch_size == 2048
    (ema,) = cfg.custom_hooks
    assert (ema.type, ema.momentum) == ('EMAHook', 1e-4)
    assert cfg.model.head.loss == dict(
        type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'
    )
    # No probabilities: equal ones.
    assert cfg.model.train_cfg == dict(
        augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]
    )
    train = steps(cfg.train_dataloader.dataset.pipeline)
    assert list(train)[1:-1] == ['RandomResizedCrop', 'RandomFlip', 'RandAugment', 'RandomErasing']
    assert train['RandomResizedCrop'].scale == 224
    augment = train['RandAugment']
    assert (augment.policies, augment.num_policies) == ('timm_increasing', 2)
    assert (augment.magnitude_level, augment.magnitude_std) == (9, 0.5)
    assert (train['RandomErasing'].erase_prob, train['RandomErasing'].mode) == (0.25, 'rand')
    test = steps(cfg.test_dataloader.dataset.pipeline)
    resize = test['ResizeEdge']
    assert (resize.scale, resize.edge, resize.interpolation) == (256, 'short', 'bicubic')
    assert test['CenterCrop'].crop_size == 224


@pytest.mark.parametrize('scale', [1, 0.25])
def test_learning_rate_of_the_classifiers(scale):
    """From 5e-7 to 5e-4 to 5e-6 for 512 images, all three times the batch over 512."""
    cfg = Config.fromfile(PUBLISHED[0])
    length = 10
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=2e-3 * scale)
    # What --auto-scale-lr leaves: mmengine scales the groups' rates alone.
    optimizer.param_groups[0]['initial_lr'] = 2e-3 * scale
    schedulers = []
    for one in cfg.param_scheduler:
        assert one.pop('convert_to_iter_based')
        build = PARAM_SCHEDULERS.get(one.pop('type')).build_iter_from_epoch
        schedulers.append(build(optimizer=optimizer, epoch_length=length, **one))
    rates = []
    for _ in range(300 * length):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert rates[0] == pytest.approx(4 * 5e-7 * scale)
    assert max(rates) == pytest.approx(4 * 5e-4 * scale)
    assert abs(rates.index(max(rates)) - 20 * length) <= 1
    assert rates[-1] == pytest.approx(4 * 5e-6 * scale, rel=0.01)


@of('detection')
def test_detection(path):
    cfg = read(path)
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05
    )
    epochs, milestones = (36, [27, 33]) if 'ms-3x' in path.stem else (12, [8, 11])
    warmup, main = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == main.end == epochs and main.milestones == milestones
    assert (warmup.type, warmup.by_epoch, warmup.end) == ('LinearLR', False, 1000)
    assert cfg.train_dataloader.batch_size == 2 and cfg.auto_scale_lr.base_batch_size == 16
    choices = [step for step in cfg.train_pipeline if step.type == 'RandomChoice']
    assert len(choices) == (epochs == 36)
    for step in choices:
        plain, (first, crop, last) = step.transforms
        assert plain == [last] and last.scales == [(side, 1333) for side in range(480, 801, 32)]
        assert [side for side, _ in first.scales] == [400, 500, 600]
        assert (crop.crop_type, crop.crop_size) == ('absolute_range', (384, 600))


@of('segmentation')
def test_segmentation(path):
    cfg = read(path)
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01
    )
    warmup, main = cfg.param_scheduler
    assert (warmup.type, warmup.by_epoch, warmup.end) == ('LinearLR', False, 1500)
    assert (main.type, main.begin, main.end, main.power) == ('PolyLR', 1500, 160000, 1.0)
    assert cfg.train_cfg.max_iters == 160000
    assert cfg.train_dataloader.batch_size == 2 and cfg.auto_scale_lr.base_batch_size == 16
    assert steps(cfg.train_pipeline)['RandomCrop'].crop_size == (512, 512)
    assert cfg.model.test_cfg == dict(mode='slide', crop_size=(512, 512), stride=(341, 341))


@pytest.mark.parametrize('path', FULL_SIZE, ids=lambda path: path.stem)
def test_decay(path, tiny_data):
    """No norm decays; in the classifiers, exactly what has more than one dimension does."""
    cfg = shrink(path, tiny_data)
    cfg.model.backbone.arch.layer_scale_init_value = 1e-5
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    cfg.optim_wrapper.type = 'OptimWrapper'
    cfg.optim_wrapper.pop('loss_scale', None)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decay = {id(p): g['weight_decay'] for g in optimizer.param_groups for p in g['params']}
    if path.parent.name == 'classification':
        for name, parameter in model.named_parameters():
            assert (decay[id(parameter)] == 0) == (parameter.ndim == 1), name
        return
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.modules.batchnorm._BatchNorm):
            assert decay[id(module.weight)] == decay[id(module.bias)] == 0
    assert decay[id(model.backbone.layers[0][0].op.linear.weight)] > 0


@pytest.mark.parametrize('path', FULL_SIZE, ids=lambda path: path.stem)
def test_augmented_testing(path):
    cfg = read(path)
    if cfg.default_scope == 'mmpretrain':
        assert 'tta_pipeline' not in cfg  # tools/test.py --tta flips
        return
    resizes, flips = cfg.tta_pipeline[-1].transforms[:2]
    assert [flip.prob for flip in flips] == [0.0, 1.0]
    if cfg.default_scope == 'mmseg':
        assert cfg.tta_model.type == 'SegTTAModel'
        assert [one.scale_factor for one in resizes] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    else:
        assert cfg.tta_model.type == 'mmvheat.InstanceTTAModel'
        assert [one.scale for one in resizes] == [(1333, 800), (1333, 640), (1600, 960)]


@pytest.mark.parametrize('path', FULL_SIZE, ids=lambda path: path.stem)
def test_the_libraries_own_tools_import_mmvheat(path):
    imports = read(path).custom_imports
    assert 'mmvheat' in imports.imports and not imports.allow_failed_imports
