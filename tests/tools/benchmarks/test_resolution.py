"""The resolution's benchmark: FLOPs, rates and what does not fit."""

import importlib.util

import pytest
import torch

SMALL = ('resolution', '--scale', 'micro', '--batch', '1', '--resolutions', '32', '64')


@pytest.fixture
def resolution(load, monkeypatch):
    """With a vHeat in place of Swin, which may not be installed, that needs too much memory."""
    module = load('time_resolution')
    build = module.build

    def stand_in(name, scale, side):
        if name == 'swin' and side == 64 and torch.empty(0).device.type != 'meta':
            raise torch.OutOfMemoryError('CUDA out of memory')
        return build('vheat', scale, side)

    monkeypatch.setattr(module, 'build', stand_in)
    monkeypatch.setattr(module, 'check_timm', lambda models: None)


def test_report_goes_on_when_memory_does_not_suffice(resolution, outcome, tmp_path):
    picture = tmp_path / 'picture.png'
    status, out, err, record = outcome(*SMALL, '--plot', str(picture))
    assert status == 0, err
    assert record['complete']
    points = {(one['resolution'], one['name']): one for one in record['points']}
    assert set(points) == {(side, name) for side in (32, 64) for name in ('vheat', 'swin')}
    assert points[64, 'swin']['failure'] == 'out of memory'
    assert 'images_per_second' not in points[64, 'swin'] and points[64, 'swin']['flops'] > 0
    assert points[64, 'vheat']['images_per_second'] > 0
    # Four times the pixels, but one linear layer behind them.
    assert 3.5 < points[64, 'vheat']['flops'] / points[32, 'vheat']['flops'] < 4.5
    # Once, for it takes its time.
    assert [one['against'] for one in record['agreements']] == ['float64']
    assert len(record['results']) == 3
    assert '64 swin' in out and 'out of memory' in out
    assert picture.stat().st_size > 10_000


def test_flops_are_those_of_the_paper(load):
    """They are of the inference form, as the published 14.9 of vHeat-B."""
    count = load('time_resolution').count('vheat', 'base', 224)
    assert round(count.flops / 1e9, 1) == 14.9


@pytest.mark.skipif(importlib.util.find_spec('timm') is None, reason='timm is not installed')
def test_windows_of_swin_grow_with_the_image(load):
    resolution = load('time_resolution')
    with torch.device('meta'):
        model = resolution.build('swin', 'micro', 448)
    assert {module.window_size for module in model.modules() if hasattr(module, 'window_area')} == {
        (14, 14)
    }
    assert round(resolution.count('swin', 'base', 224).flops / 1e9, 1) == 15.5
