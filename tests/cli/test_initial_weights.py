"""Weights that a config names for the start of training: needed there, and only there."""

import argparse

import pytest
import torch

from mmvheat.cli.preflight import check_initial_weights
from mmvheat.cli.prepare import prepare_testing, prepare_training
from mmvheat.errors import UserError
from mmvheat.models import VHeat

CONFIG = """
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='gone.pth')))
train_dataloader = test_dataloader = dict(dataset=dict())
train_cfg = optim_wrapper = test_cfg = test_evaluator = dict()
"""


@pytest.fixture
def args(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(CONFIG)
    return argparse.Namespace(
        config=str(config),
        work_dir=str(tmp_path / 'work'),
        cfg_options=None,
        compile=None,
        launcher='none',
    )


def test_training_needs_them(args):
    vars(args).update(seed=None, amp=False, auto_scale_lr=False, resume=None)
    with pytest.raises(UserError, match=r'pretrained weights gone\.pth do not exist'):
        prepare_training(args)


def test_testing_does_not(args, tmp_path):
    path = str(tmp_path / 'c.pth')
    torch.save(dict(state_dict=dict(weight=torch.ones(1))), path)
    vars(args).update(checkpoint=path, out=None, show=False, show_dir=None, tta=False)
    cfg, checkpoint = prepare_testing(args)
    assert cfg.load_from == checkpoint.path == path


@pytest.mark.parametrize('kind', ['MMDET_VHEAT', 'MMSEG_VHEAT'])
def test_the_published_backbones_name_theirs_otherwise(kind):
    """Their ``init_cfg`` is a Swin Transformer's, which they ignore."""
    inherited = dict(type='Pretrained', checkpoint='swin.pth')
    model = dict(backbone=dict(type=kind, init_cfg=inherited, pretrained='path/to/pth'))
    with pytest.raises(UserError, match='path/to/pth do not exist.*other pretrained'):
        check_initial_weights(model, 'config.py')
    model['backbone']['pretrained'] = None
    check_initial_weights(model, 'config.py')


@pytest.mark.parametrize(('given', 'wanted'), [(3, 4), (3, 1), (3, 12), (4, 3), (4, 5)])
def test_channels_of_the_images(given, wanted, tmp_path):
    """A backbone adapts a file for RGB images while it loads it, and no other."""
    arch, path = dict(depths=[1, 1], dims=4), str(tmp_path / 'c.pth')
    weights = VHeat(arch, in_channels=given, out_indices=1).state_dict()
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in weights.items()}), path)
    backbone = dict(
        type='mmvheat.VHeat',
        arch=arch,
        in_channels=wanted,
        out_indices=(0, 1),
        init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.'),
    )
    if given == 3:
        check_initial_weights(dict(backbone=backbone), 'config.py')
        return
    shapes = rf'conv1.weight \(2, {given}, 3, 3\), not \(2, {wanted}, 3, 3\)'
    with pytest.raises(UserError, match=shapes) as raised:
        check_initial_weights(dict(backbone=backbone), 'config.py')
    assert '\n' not in str(raised.value)
