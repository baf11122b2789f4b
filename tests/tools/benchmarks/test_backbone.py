"""The backbone's benchmark: all phases are reported, what disagrees is refused."""

import importlib.util

import pytest
import torch

MICRO = ('--models', 'vheat-micro', '--size', '32', '--batch', '2')
needs_timm = pytest.mark.skipif(
    importlib.util.find_spec('timm') is None, reason='timm is not installed'
)
# In place of the published code: the same names of modules, and arguments of its class.
STAND_IN = """
from torch import nn
from mmvheat.models import VHeat, VHeatArch

class vHeat(VHeat):
    def __init__(self, depths, dims, num_classes, drop_path_rate, post_norm, layer_scale,
                 mlp_ratio, img_size, infer_mode):
        arch = VHeatArch(depths, dims, post_norm, layer_scale, mlp_ratio)
        last = len(dims) - 1
        super().__init__(arch, img_size=img_size, out_indices=last, drop_path_rate=drop_path_rate)
        norm = getattr(self, f'outnorm{last}')
        self.classifier = nn.Sequential(
            norm, nn.Identity(), nn.Identity(), nn.Linear(dims[-1], num_classes)
        )
        del self._modules[f'outnorm{last}']
        self.__dict__[f'outnorm{last}'] = norm  # found by name, but no second parameter
        self.infer_mode = infer_mode

    def infer_init(self):
        assert self.infer_mode

    def forward(self, images):
        logits = self.classifier[3](super().forward(images)[0].mean((2, 3)))
        return logits FORGOTTEN
"""


@pytest.fixture
def published(tmp_path):
    """A folder like that of the published repository, right or wrong in one of its forms."""

    def published(forgotten: str = ''):
        folder = tmp_path / 'clone' / 'classification' / 'models'
        folder.mkdir(parents=True)
        (folder / 'vHeat.py').write_text(STAND_IN.replace('FORGOTTEN', forgotten))
        return str(tmp_path / 'clone')

    return published


def test_report(outcome, published, tmp_path):
    picture = tmp_path / 'picture.png'
    status, out, err, record = outcome(
        'backbone', *MICRO, '--published', published(), '--plot', str(picture)
    )
    assert status == 0, err
    assert record['complete'] and record['failures'] == []
    rows = {(row['measure'], row['name']): row for row in record['results']}
    assert set(rows) == {
        (phase, name)
        for phase in ('throughput', 'latency', 'training')
        for name in ('vheat', 'published')
    }
    for (phase, name), row in rows.items():
        assert row['group'] == 'micro' and row['baseline'] == 'published'
        assert len(row['samples']) == 3 and row['figures']['images_per_second'] > 0
        assert ('peak_bytes' in row['figures']) == (phase != 'latency')
        assert name != 'published' or row['ratio']['median'] == 1
    saved = [rows['training', name]['figures'] for name in ('vheat', 'published')]
    # The stand-in is our own code.
    assert saved[0]['saved_for_backward_bytes'] == saved[1]['saved_for_backward_bytes'] > 10_000
    assert {(one['of'], one['against']) for one in record['agreements']} == {
        ('micro classifier: vheat in float32', 'float64'),
        ('micro classifier: vheat in float32', 'published (inference form)'),
        ('micro classifier: vheat at batch 2 in float32', 'published (inference form)'),
        ('micro classifier: vheat in float32', 'published (gradients)'),
    }
    assert out.count('times published') == 3 and 'not measured' in out
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ('forgotten', 'said'),
    [
        ('* (1 if self.training else 1.01)', 'vheat in float32 disagrees with published (infer'),
        ('** (1 + self.training)', 'vheat in float32 disagrees with published (gradients)'),
    ],
)
def test_published_code_that_disagrees_is_not_reported(outcome, published, forgotten, said):
    phases = ('--phases', 'training') if 'gradients' in said else ('--phases', 'throughput')
    status, out, err, record = outcome(
        'backbone', *MICRO, '--published', published(forgotten), *phases
    )
    assert status == 2
    assert err.startswith(f'error: micro classifier: {said}') and err.count('\n') == 1
    assert 'relative error' in err and 'tolerance' in err
    assert 'times' not in out and record is None


def test_ours_that_disagrees_with_float64_is_not_reported(outcome, load, monkeypatch):
    backbone = load('backbone')
    build = backbone.build_model

    def imprecise(*arguments):
        model = build(*arguments)
        model.register_forward_hook(
            lambda module, inputs, out: out if out.dtype == torch.float64 else 1.01 * out
        )
        return model

    monkeypatch.setattr(backbone, 'build_model', imprecise)
    status, _, err, record = outcome('backbone', *MICRO)
    assert status == 2
    assert 'vheat in float32 disagrees with float64: relative error 1.00e-02' in err
    assert record is None


@pytest.mark.parametrize('part', ['freq_embed', 'gamma1', 'op.to_k', 'op.dwconv', 'outnorm'])
def test_every_part_shows_in_what_is_compared(load, part):
    """With the weights of a fresh model a wrong operator would be below the tolerance."""
    peers = load('peers')
    ours, wrong = (peers.build_model('vheat', 'micro', (32, 32)).eval() for _ in range(2))
    if part == 'gamma1':
        ours, wrong = (
            peers.build_model('vheat', 'micro', (32, 32), 'detection').eval() for _ in range(2)
        )
        part = 'norm1'
    with torch.no_grad():
        for name, parameter in wrong.named_parameters():
            if part in name:
                parameter.mul_(1.3)
        images = torch.randn(1, 3, 32, 32)
        error = load('agreement').worst_error(wrong(images), ours(images))
    assert error > 5 * load('group').OUTPUT_TOLERANCES[torch.float32]


def test_detection_compiled_in_low_precision(outcome):
    status, out, err, record = outcome(
        *('backbone', '--models', 'vheat-micro', '--path', 'detection', '--size', '40', '52'),
        *('--batch', '1', '--dtype', 'bfloat16', '--compile', 'aot_eager'),
        *('--phases', 'throughput', 'training', '--baseline', 'vheat compiled'),
    )
    assert status == 0, err
    assert [(row['measure'], row['name'], row['baseline']) for row in record['results']] == [
        ('throughput', 'vheat', 'vheat compiled'),
        ('throughput', 'vheat compiled', 'vheat compiled'),
        ('training', 'vheat', 'vheat compiled'),
        ('training', 'vheat compiled', 'vheat compiled'),
    ]
    assert 'agrees: micro detection: vheat compiled in bfloat16 with vheat (gradients)' in out


def test_compiling_that_takes_too_long_is_left_out(outcome):
    status, out, err, record = outcome(
        *('backbone', *MICRO, '--phases', 'throughput'),
        *('--compile', 'aot_eager', '--compile-limit', '0'),
    )
    assert status == 0
    assert [row['name'] for row in record['results']] == ['vheat']
    assert record['failures'][0]['name'] == 'vheat compiled'
    assert 'vheat compiled  TimeoutError: not compiled: 0 s had passed' in out


@needs_timm
@pytest.mark.parametrize('path', ['classifier', 'detection'])
def test_models_of_timm(outcome, path):
    size = ('64',) if path == 'classifier' else ('70', '97')
    status, _, err, record = outcome(
        *('backbone', '--models', 'vheat-micro', 'swin-micro', 'convnext-micro', '--path', path),
        *('--size', *size, '--batch', '1'),
    )
    assert status == 0, err
    assert len(record['results']) == 3 * 3


@pytest.mark.gpu
def test_on_a_gpu(outcome):
    status, out, err, record = outcome(
        'backbone', *MICRO, '--device', 'cuda', '--dtype', 'bfloat16', '--compile'
    )
    assert status == 0, err
    for row in record['results']:
        assert row['measure'] == 'latency' or row['figures']['peak_bytes'] > 100_000
