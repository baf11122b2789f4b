"""Every config parses and builds at its full size; the demo's weights reach their models."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmvheat.checkpoint import convert_file, describe_checkpoint
from mmvheat.cli.matching_configs import CONFIGS as TABLE
from mmvheat.cli.matching_configs import find_uses
from mmvheat.layers import HeatBlock

CONFIGS = Path(__file__).parents[2] / 'configs'
FILES = sorted(p for p in CONFIGS.glob('*/*.py') if p.parent.name != '_base_')
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
def test_builds_and_fits(path):
    """On the meta device, which computes shapes alone, in no time and no memory."""
    pytest.importorskip('mmcv')
    cfg = Config.fromfile(path)
    assert cfg.default_scope in ('mmpretrain', 'mmdet', 'mmseg')
    with torch.device('meta'):
        model = build(cfg).eval()
        backbone = model.backbone
        maps = tuple(
            torch.rand(1, channels, 64 // stride, 96 // stride)
            for channels, stride in zip(backbone.out_channels, backbone.out_strides, strict=True)
        )
    depths = [sum(isinstance(block, HeatBlock) for block in stage) for stage in backbone.layers]
    assert tuple(depths) == backbone.arch.depths
    # The parts behind the backbone take what it gives.
    if cfg.default_scope == 'mmseg':
        logits = model.decode_head(model.neck(maps) if model.with_neck else maps)
        assert logits.shape == (1, cfg.model.decode_head.num_classes, 16, 24)
        if model.with_auxiliary_head:
            assert model.auxiliary_head(maps).shape[1] == logits.shape[1]
    elif cfg.default_scope == 'mmdet':
        levels = model.neck(maps)
        head = model.rpn_head if hasattr(model, 'rpn_head') else model.bbox_head
        scores, _ = head(levels)
        assert len(scores) == len(levels) == cfg.model.neck.num_outs
    else:
        assert model.head(model.neck(maps)).shape == (1, cfg.model.head.num_classes)
    check_table(path, cfg, model)


def check_table(path: Path, cfg: Config, model: nn.Module) -> None:
    """What `inspect` knows of the config is what a checkpoint of its model shows."""
    state = {name: torch.empty(value.shape) for name, value in model.state_dict().items()}
    config = str(path.relative_to(CONFIGS.parent))
    found, facts = describe_checkpoint({'state_dict': state}), TABLE[config]
    assert (found.kind, found.num_classes) == (facts.kind, facts.num_classes)
    assert (found.backbone.missing, found.backbone.misshaped, found.backbone.unknown) == (
        (),
        {},
        (),
    )
    assert model.backbone.arch == facts.arch
    assert model.backbone.img_size == found.backbone.image_size == (facts.img_size, facts.img_size)
    assert facts.pretrained == (cfg.model.backbone.get('init_cfg') or {}).get('checkpoint')
    assert config in find_uses(found, 'x.pth')[0].configs


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
