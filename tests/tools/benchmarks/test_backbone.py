"""The backbone's benchmark: all phases are reported, what disagrees is refused."""

import importlib.util
import statistics

import pytest
import torch

MICRO = ('backbone', '--models', 'vheat-micro', '--size', '32', '--batch', '2')
needs_timm = pytest.mark.skipif(
    importlib.util.find_spec('timm') is None, reason='timm is not installed'
)
needs_runtimes = pytest.mark.skipif(
    not all(
        importlib.util.find_spec(name)
        for name in ('onnx', 'onnxscript', 'onnxslim', 'onnxruntime', 'openvino')
    ),
    reason="pip install 'mmvheat[export]'",
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
    status, out, err, record = outcome(*MICRO, '--published', published(), '--plot', str(picture))
    assert status == 0, err
    assert record['complete'] and record['failures'] == []
    rows = {(row['measure'], row['name']): row for row in record['results']}
    assert list(rows) == [
        (phase, name)
        for phase in ('throughput', 'latency', 'training')
        for name in ('vheat', 'published')
    ]
    for (phase, name), row in rows.items():
        assert row['group'] == 'micro' and row['baseline'] == 'published'
        rate = row['figures']['images_per_second'] * row['seconds']['median']
        assert rate == pytest.approx(1 if phase == 'latency' else 2)
        assert ('peak_bytes' in row['figures']) == (phase != 'latency')
        assert name != 'published' or row['ratio']['median'] == 1
    # A training step takes three times as many operations as the forward pass.
    flops = {key: row['figures']['flops'] for key, row in rows.items()}
    assert flops['training', 'vheat'] == 3 * flops['throughput', 'published'] > 1e6
    assert flops['throughput', 'vheat'] == 2 * flops['latency', 'vheat']
    for row in rows.values():
        speed = row['figures']['flops'] / row['seconds']['median']
        product = statistics.median(row['yardsticks']['product float32'])
        share = row['figures']['share_of_product']
        # Of two rounds: medians of ratios and ratios of medians are not the same.
        assert share['low'] > 0
        assert share['median'] == pytest.approx(speed * product / (2 * 1536**3), rel=1)
    saved = [rows['training', name]['figures'] for name in ('vheat', 'published')]
    # The stand-in is our own code.
    assert saved[0]['saved_for_backward_bytes'] == saved[1]['saved_for_backward_bytes'] > 10_000
    assert [(one['of'], one['against']) for one in record['agreements']] == [
        ('micro classifier: vheat in float32', 'float64'),
        ('micro classifier: vheat in float32', 'published (inference form)'),
        ('micro classifier: vheat at batch 2 in float32', 'published (inference form)'),
        ('micro classifier: vheat in float32', 'published (gradients)'),
    ]
    assert out.count('times published') == 3 and out.count('agrees: ') == 4
    assert out.count('share of product') == out.count('product float32: ') == 3
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ('forgotten', 'phase', 'against'),
    [
        ('* (1 if self.training else 1.01)', 'throughput', 'published (inference form)'),
        ('** (1 + self.training)', 'training', 'published (gradients)'),
    ],
)
def test_published_code_that_disagrees_is_not_reported(
    outcome, published, forgotten, phase, against
):
    status, out, err, record = outcome(
        *MICRO, '--published', published(forgotten), '--phases', phase
    )
    assert status == 2 and err.count('\n') == 1
    said = f'error: micro classifier: vheat in float32 disagrees with {against}: relative error '
    assert err.startswith(said)
    assert 'times' not in out and not record['complete'] and not record['results']


def test_ours_that_disagrees_with_float64_is_not_reported(outcome, load, monkeypatch):
    backbone = load('time_backbone')
    build = backbone.build_model

    def imprecise(*arguments):
        model = build(*arguments)
        model.register_forward_hook(
            lambda module, inputs, out: out if out.dtype == torch.float64 else 1.01 * out
        )
        return model

    monkeypatch.setattr(backbone, 'build_model', imprecise)
    status, _, err, record = outcome(*MICRO)
    assert status == 2 and not record['results']
    assert 'vheat in float32 disagrees with float64: relative error 1.00e-02' in err


def test_published_code_is_not_timed_without_ours_to_compare(outcome, load, published, monkeypatch):
    def build(*arguments):
        raise torch.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(load('time_backbone'), 'build_model', build)
    status, _, err, record = outcome(
        *MICRO, '--published', published(), '--phases', 'training', '--compile', 'eager'
    )
    assert status == 0, err
    assert record['complete'] and record['results'] == []
    failures = {one['name']: one['why'] for one in record['failures']}
    assert list(failures) == ['vheat', 'vheat compiled', 'published', 'published compiled']
    assert failures['vheat'] == 'out of memory'


def test_detection_compiled_in_low_precision(outcome):
    status, out, err, record = outcome(
        *('backbone', '--models', 'vheat-micro', '--path', 'detection', '--size', '40', '52'),
        *('--batch', '1', '--dtype', 'bfloat16', '--compile', 'eager'),
        *('--phases', 'throughput', 'training', '--baseline', 'vheat compiled'),
    )
    assert status == 0, err
    assert [(row['measure'], row['name'], row['baseline']) for row in record['results']] == [
        (phase, name, 'vheat compiled')
        for phase in ('throughput', 'training')
        for name in ('vheat', 'vheat compiled')
    ]
    assert 'agrees: micro detection: vheat compiled in bfloat16 with vheat (gradients)' in out


def test_compiling_that_takes_too_long_is_left_out(outcome):
    status, out, _, record = outcome(
        *(*MICRO, '--phases', 'throughput', '--compile', 'eager', '--compile-limit', '0')
    )
    assert status == 0
    assert [row['name'] for row in record['results']] == ['vheat']
    where = {'group': 'micro', 'form': 'inference', 'name': 'vheat compiled'}
    why = 'TimeoutError: not compiled: 0 s had passed'
    assert record['failures'] == [{**where, 'why': why}]
    assert why in out


@needs_runtimes
@pytest.mark.parametrize('path', ['classifier', 'detection'])
def test_exported_forms(outcome, path):
    size = ('32',) if path == 'classifier' else ('40', '52')
    status, _, err, record = outcome(
        *(*MICRO[:3], '--size', *size, '--path', path, '--batch', '2'),
        *('--runtime', 'onnxruntime', 'openvino'),
    )
    assert status == 0, err
    forms = ['vheat', 'vheat onnxruntime', 'vheat openvino']
    assert [(row['measure'], row['name']) for row in record['results']] == [
        *(('throughput', name) for name in forms),
        *(('latency', name) for name in forms),
        ('training', 'vheat'),
    ]
    assert [(one['of'], one['against']) for one in record['agreements'][1:]] == [
        (f'micro {path}: {name} at batch {batch} in float32', 'vheat')
        for name in forms[1:]
        for batch in (2, 1)
    ]
    assert {row['figures']['flops'] for row in record['results'][:3]} == {
        record['results'][0]['figures']['flops']
    }


@needs_runtimes
def test_an_exported_form_that_disagrees_is_not_reported(outcome, load, monkeypatch):
    runtimes = load('runtimes')
    run = runtimes.Exported.forward
    monkeypatch.setattr(
        runtimes.Exported, 'forward', lambda self, images: [1.01 * one for one in run(self, images)]
    )
    status, _, err, record = outcome(*MICRO, '--runtime', 'onnxruntime')
    assert status == 2 and not record['results']
    assert 'vheat onnxruntime at batch 2 in float32 disagrees with vheat' in err


def test_packed_weights(outcome, load):
    """They are compared, and timed in inference alone."""
    status, _, err, record = outcome(*MICRO, '--pack', '--baseline', 'vheat packed')
    assert status == 0, err
    names = [(row['measure'], row['name']) for row in record['results']]
    assert names == [
        *(('throughput', name) for name in ('vheat', 'vheat packed')),
        *(('latency', name) for name in ('vheat', 'vheat packed')),
        ('training', 'vheat'),
    ]
    compared = {one['of'] for one in record['agreements']}
    assert 'micro classifier: vheat packed at batch 1 in float32' in compared


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
    status, _, err, record = outcome(*MICRO, '--device', 'cuda', '--dtype', 'bfloat16', '--compile')
    assert status == 0, err
    for row in record['results']:
        assert row['measure'] == 'latency' or row['figures']['peak_bytes'] > 100_000
