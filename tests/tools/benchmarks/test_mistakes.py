"""Bad input: one clear line and status 2. And what the benchmarks do not need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ('script', 'arguments', 'said'),
    [
        ('backbone', ('--models', 'resnet-50'), "unknown model 'resnet-50': use vheat-micro, "),
        ('backbone', ('--models', 'vheat-micro', '--size', '1', '2', '3'), 'got 3'),
        ('backbone', ('--models', 'vheat-micro', '--size', '0'), '0 is not >= 1'),
        ('backbone', ('--models', 'vheat-micro', '--dtype', 'int8'), "invalid choice: 'int8'"),
        ('backbone', ('--models', 'vheat-micro', '--published', 'nowhere'), 'a clone of the publ'),
        ('backbone', ('--models', 'vheat-micro', '--baseline', 'swin'), 'the micro models are vh'),
        ('backbone', ('--models', 'vheat-micro', '--device', 'tpu'), "cpu or cuda[:N], got 'tpu'"),
        ('backbone', ('--models', 'vheat-micro', '--compile', 'gcc'), "has no backend 'gcc'"),
        ('heat_operator', ('--maps', '7x7'), 'a map is HxWxC, like 56x56x96, got 7x7'),
        ('heat_operator', ('--operators', 'fast'), "unknown operator 'fast': use mmvheat"),
        ('heat_operator', ('--exponent-sizes', '8'), 'needs two sizes'),
        ('heat_operator', ('--sample-ms', '-1'), '--sample-ms is not negative, got -1'),
        ('resolution', ('--resolutions', '100'), 'multiples of 32, got 100'),
        ('resolution', ('--models', 'vit'), "unknown model 'vit': use vheat, swin"),
    ],
)
def test_mistakes_are_one_line(outcome, script, arguments, said):
    status, _, err, record = outcome(script, *arguments)
    assert status == 2
    assert err.startswith('error: ') and err.count('\n') == 1, err
    assert said in err
    assert record is None


def test_a_gpu_that_is_not_there(outcome, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    status, _, err, _ = outcome('heat_operator', '--device', 'cuda')
    assert (status, err.count('\n')) == (2, 1)
    assert 'torch finds no CUDA GPU: use --device cpu' in err


@pytest.mark.parametrize('missing', ['timm', 'matplotlib'])
def test_what_is_not_installed(outcome, load, monkeypatch, missing, tmp_path):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    monkeypatch.setattr(load('peers'), 'timm_is_there', lambda: False)
    models = 'swin-micro' if missing == 'timm' else 'vheat-micro'
    status, _, err, _ = outcome('backbone', '--models', models, '--plot', str(tmp_path / 'a.png'))
    assert (status, err.count('\n')) == (2, 1)
    assert f'pip install {missing}' in err


def test_published_code_whose_needs_are_missing(outcome, tmp_path):
    folder = tmp_path / 'classification' / 'models'
    folder.mkdir(parents=True)
    (folder / 'vHeat.py').write_text('import no_such_package\n')
    status, _, err, _ = outcome('backbone', '--models', 'vheat-micro', '--published', str(tmp_path))
    assert (status, err.count('\n')) == (2, 1)
    assert 'cannot be imported: pip install no_such_package' in err


def test_published_classifier_and_sizes_it_cannot_take(outcome, tmp_path):
    folder = tmp_path / 'classification' / 'models'
    folder.mkdir(parents=True)
    (folder / 'vHeat.py').write_text('vHeat = None\n')
    status, _, err, _ = outcome(
        *('backbone', '--models', 'vheat-micro', '--published', str(tmp_path)),
        *('--size', '32', '64'),
    )
    assert (status, err.count('\n')) == (2, 1)
    assert 'square images of a multiple of 32, got 32 x 64' in err


def test_no_task_library_is_needed():
    code = """
import sys
for name in ('mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'timm', 'torchvision', 'matplotlib.figure'):
    sys.modules[name] = None  # any import of it fails
import heat_operator, backbone, resolution
quick = ['--device', 'cpu', '--repetitions', '1', '--sample-ms', '0', '--threads', '1']
heat_operator.main([*quick, '--maps', '3x3x2', '--exponent-sizes'])
backbone.main([*quick, '--models', 'vheat-micro', '--size', '32', '--batch', '1'])
resolution.main([*quick, '--models', 'vheat', '--scale', 'micro', '--resolutions', '32'])
"""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code],
        env=os.environ | {'PYTHONPATH': f'{ROOT / "tools/benchmarks"}:{ROOT}'},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
