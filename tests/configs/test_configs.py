"""Every config parses and builds at its full size; the demo's weights reach their models."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmvheat.checkpoint import convert_file

CONFIGS = Path(__file__).parents[2] / 'configs'
FILES = sorted(p for p in CONFIGS.glob('*/*.py') if p.parent.name != '_base_')
FULL_SIZE = [path for path in FILES if path.parent.name != 'demo']
CLASSIFIER = 'vheat-mini_2xb16-3000i_digits-64x64'
DOWNSTREAM = (
    'mask-rcnn_vheat-mini_fpn_2xb4-1200i_digit-scenes',
    'vheat-mini_upernet_2xb4-600i_digit-scenes-128x128',
)


def build(cfg: Config) -> nn.Module:
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model)


def load(name: str) -> Config:
    return Config.fromfile(CONFIGS / 'demo' / f'{name}.py')


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_builds_and_runs(path):
    pytest.importorskip('mmcv')
    cfg = Config.fromfile(path)
    assert cfg.default_scope in ('mmpretrain', 'mmdet', 'mmseg')
    model = build(cfg).eval()
    maps = model.backbone(torch.rand(1, 3, 64, 96))
    assert all(torch.isfinite(m).all() for m in maps)
    # The parts behind the backbone take what it gives.
    if cfg.default_scope == 'mmseg':
        logits = model.decode_head(maps)
        assert logits.shape == (1, cfg.model.decode_head.num_classes, 16, 24)
        if model.with_auxiliary_head:
            assert model.auxiliary_head(maps).shape[1] == logits.shape[1]
    elif cfg.default_scope == 'mmdet':
        levels = model.neck(maps)
        scores, _ = model.rpn_head(levels)
        assert len(scores) == len(levels) == cfg.model.neck.num_outs
    else:
        assert model.head(model.neck(maps)).shape == (1, cfg.model.head.num_classes)


@pytest.mark.parametrize('path', FULL_SIZE, ids=lambda path: path.stem)
def test_norms_do_not_decay(path):
    cfg = Config.fromfile(path)
    cfg.model.backbone.arch = dict(depths=[1, 1, 1, 1], dims=cfg_dims(cfg))
    model = build(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decay = {id(p): g['weight_decay'] for g in optimizer.param_groups for p in g['params']}
    for module in model.backbone.modules():
        if isinstance(module, nn.LayerNorm):
            assert decay[id(module.weight)] == 0
    assert decay[id(model.backbone.layers[0][0].op.linear.weight)] > 0


def cfg_dims(cfg: Config) -> list[int]:
    """Widths that the parts behind the backbone expect."""
    part = cfg.model.neck if cfg.default_scope == 'mmdet' else cfg.model.decode_head
    return list(part.in_channels)


def test_drop_path_and_size_follow_the_published_recipes():
    rates = {}
    for path in FULL_SIZE:
        backbone = Config.fromfile(path).model.backbone
        assert backbone.img_size == 512
        rates[path.parent.name, backbone.arch] = backbone.drop_path_rate
    assert rates == {
        ('detection', 'tiny'): 0.1,
        ('detection', 'small'): 0.3,
        ('detection', 'base'): 0.5,
        ('segmentation', 'tiny'): 0.3,
        ('segmentation', 'small'): 0.4,
        ('segmentation', 'base'): 0.5,
    }


@pytest.mark.parametrize('name', DOWNSTREAM)
def test_demo_weights_reach_the_model(name, tmp_path):
    classifier = build(load(CLASSIFIER))
    torch.save({'state_dict': classifier.state_dict()}, tmp_path / 'cls.pth')
    convert_file(tmp_path / 'cls.pth', tmp_path / 'fit.pth', 64, 128)
    cfg = load(name)
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'fit.pth')
    model = build(cfg)
    before = model.backbone.layers[2][0].mlp.fc1.weight.clone()
    model.init_weights()
    given = torch.load(tmp_path / 'fit.pth')['state_dict']
    own = {f'backbone.{key}': value for key, value in model.backbone.state_dict().items()}
    assert not torch.equal(before, model.backbone.layers[2][0].mlp.fc1.weight)
    assert set(own) - set(given) == {
        f'backbone.outnorm{i}.{part}' for i in range(4) for part in ('weight', 'bias')
    }
    for key, value in given.items():
        torch.testing.assert_close(own[key], value, rtol=0, atol=0)
