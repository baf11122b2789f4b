"""Weights that a config names for the start of training: needed there, and only there."""

import argparse

import pytest

from mmvheat.engine.errors import CommandLineError
from mmvheat.engine.testing_config import prepare_testing
from mmvheat.engine.training_config import prepare_training

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
        launcher='none',
    )


def test_training_needs_them(args):
    vars(args).update(seed=None, amp=False, auto_scale_lr=False, resume=None)
    with pytest.raises(CommandLineError, match=r'pretrained weights gone\.pth do not exist'):
        prepare_training(args)


def test_testing_does_not(args):
    vars(args).update(checkpoint='c.pth', out=None, show=False, show_dir=None, tta=False)
    assert prepare_testing(args).load_from == 'c.pth'
