"""Bad input: one clear line and status 2. And what the benchmarks do not need."""

import sys

import pytest

BACKBONE = ('backbone', '--models', 'vheat-micro')


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (('backbone', '--models', 'resnet-50'), "'resnet-50' (choose from 'vheat-micro', "),
        ((*BACKBONE, '--size', '1', '2', '3'), 'got 3'),
        ((*BACKBONE, '--size', '0'), '0 is not >= 1'),
        ((*BACKBONE, '--dtype', 'int8'), "invalid choice: 'int8'"),
        ((*BACKBONE, '--published', 'nowhere'), 'a clone of the published repository'),
        ((*BACKBONE, '--baseline', 'swin'), 'the micro models are vheat'),
        ((*BACKBONE, '--device', 'tpu'), "cpu or cuda[:N], got 'tpu'"),
        ((*BACKBONE, '--device', 'cuda:99'), 'use --device cpu'),
        ((*BACKBONE, '--compile', 'gcc'), "has no backend 'gcc'"),
        ((*BACKBONE, '--runtime', 'tensorrt'), "invalid choice: 'tensorrt'"),
        (
            (*BACKBONE, '--runtime', 'onnxruntime', '--dtype', 'bfloat16'),
            '--runtime onnxruntime is timed in float32, got --dtype bfloat16',
        ),
        ((*BACKBONE, '--plot', 'picture.doc'), 'picture.doc ends in none of .'),
        ((*BACKBONE, '--json', '/proc/no/such'), 'cannot write /proc/no/such: '),
        (('heat_operator', '--maps', '7x7'), 'a map is HxWxC, like 56x56x96, got 7x7'),
        (('heat_operator', '--operators', 'fast'), "'fast' (choose from 'mmvheat', "),
        (('heat_operator', '--exponent-sizes', '8', '8'), 'needs two sizes'),
        (('heat_operator', '--sample-ms', '-1'), '-1 is not >= 0'),
        (('resolution', '--resolutions', '100'), 'multiples of 32, got 100'),
        (('resolution', '--models', 'vit'), "'vit' (choose from 'vheat', 'swin')"),
    ],
)
def test_mistakes_are_one_line(outcome, arguments, said):
    status, out, err, record = outcome(*arguments)
    assert (status, out, record) == (2, '', None)
    assert err.startswith('error: ') and err.count('\n') == 1, err
    assert said in err


@pytest.mark.parametrize(
    ('missing', 'arguments'),
    [('timm', ('--models', 'swin-micro')), ('matplotlib', ('--plot', 'a.png'))],
)
def test_what_is_not_installed(outcome, load, monkeypatch, missing, arguments):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    monkeypatch.setattr(load('models'), 'timm_is_there', lambda: False)
    status, _, err, _ = outcome('backbone', *arguments)
    assert (status, err.count('\n')) == (2, 1)
    assert f'pip install {missing}' in err


def test_a_runtime_that_is_not_installed(outcome, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    status, _, err, record = outcome(*BACKBONE, '--runtime', 'onnxruntime')
    assert (status, err.count('\n'), record) == (2, 1, None)
    assert 'onnxruntime cannot be imported' in err and "pip install 'mmvheat[export]'" in err


@pytest.mark.parametrize(
    ('code', 'arguments', 'said'),
    [
        ('import no_such_package', (), 'cannot be imported: pip install no_such_package'),
        ('', (), 'its vHeat.py has no class vHeat'),
        ('vHeat = None', ('--size', '32', '64'), 'square images of a multiple of 32, got 32 x 64'),
    ],
)
def test_published_code_that_does_not_fit(outcome, tmp_path, code, arguments, said):
    folder = tmp_path / 'classification' / 'models'
    folder.mkdir(parents=True)
    (folder / 'vHeat.py').write_text(code)
    status, _, err, _ = outcome(*BACKBONE, '--published', str(tmp_path), *arguments)
    assert (status, err.count('\n')) == (2, 1)
    assert said in err


def test_no_task_library_is_needed(start):
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
    done = start(sys.executable, '-W', 'ignore', '-c', code)
    assert done.returncode == 0 and not done.stderr, done.stderr
