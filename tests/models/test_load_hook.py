"""Every load of a vHeat says in one line how it fits, whoever loads it."""

import copy
import logging

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import load_checkpoint, load_state_dict
from torch import nn

from mmvheat.checkpoint import change_file
from mmvheat.errors import UserError
from mmvheat.models import MMDET_VHEAT, VHeat
from mmvheat.models.load_hook import adapt_input_channels

ARCH = dict(depths=[1, 1], dims=4)
LINE = 'keys matched, '


def build(img_size=32, **kwargs):
    return VHeat(**{**dict(arch=ARCH, img_size=img_size, out_indices=(0, 1)), **kwargs})


class _List(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def said():
    """The lines that count, so far."""
    kept = _List()
    MMLogger.get_current_instance().addHandler(kept)
    return lambda: [record for record in kept.records if LINE in record.getMessage()]


def _mmengine_file(model, state, path):
    torch.save({'state_dict': state, 'meta': {}}, path)
    load_checkpoint(model, str(path))


def _init_cfg(model, state, path):
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in state.items()}}, path)
    model.init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    model.init_weights()


LOADS = {
    'torch': lambda model, state, _: model.load_state_dict(state, strict=False),
    'mmengine': lambda model, state, _: load_state_dict(model, state),
    'mmengine, of a file': _mmengine_file,
    'init_cfg': _init_cfg,
}


@pytest.mark.parametrize('load', LOADS)
def test_all_is_counted(load, said, tmp_path):
    state = build(img_size=64).state_dict()
    total = len(state)
    del state['outnorm0.bias'], state['outnorm1.bias']
    state['head.fc.weight'] = torch.zeros(2, 2)
    LOADS[load](build(), state, tmp_path / 'x.pth')
    (record,) = said()
    assert record.getMessage() == (
        f'Load VHeat: {total - 2} keys matched, 2 of them resized '
        '(freq_embed.0 16x16 -> 8x8, freq_embed.1 8x8 -> 4x4), '
        '2 missing (outnorm0.bias, outnorm1.bias), 1 unexpected (head.fc.weight)'
    )
    assert record.levelno == logging.INFO


def test_another_shape_is_a_warning(said):
    state = build().state_dict()
    state['outnorm0.bias'] = torch.zeros(5)
    load_state_dict(build(), state)
    (record,) = said()
    assert '1 of another shape (outnorm0.bias (5,), not (4,))' in record.getMessage()
    assert record.levelno == logging.WARNING


@pytest.mark.parametrize(
    'wrap',
    [
        lambda backbone: nn.ModuleDict(dict(backbone=backbone)),
        lambda backbone: ExponentialMovingAverage(nn.ModuleDict(dict(backbone=backbone))),
    ],
)
def test_a_backbone_inside_a_model(wrap, said):
    model = wrap(build())
    state = copy.deepcopy(model.state_dict())
    model.load_state_dict(state)
    (record,) = said()
    assert f'backbone.VHeat: {len(build().state_dict())} keys matched, 0 of' in record.getMessage()


def test_a_published_backbone(said, tmp_path):
    arguments = dict(depths=[1, 1, 1, 1], dims=4, post_norm=False, img_size=32)
    source = MMDET_VHEAT(**arguments)
    torch.save({'model': source.state_dict()}, tmp_path / 'vheat.pth')
    model = MMDET_VHEAT(**arguments, pretrained=str(tmp_path / 'vheat.pth'))
    model.init_weights()
    (record,) = said()
    assert f'Load MMDET_VHEAT: {len(source.state_dict())} keys matched' in record.getMessage()


@pytest.mark.parametrize('load', LOADS)
@pytest.mark.parametrize(
    ('change', 'named'),
    [
        (lambda state: {f'module.model.{k}': v for k, v in state.items()}, 'model.'),
        (lambda state: {k: torch.zeros(7, 7, 7) for k in state}, r'of another shape \('),
        (lambda state: {'conv1.weight': torch.zeros(1), 'layer1.0.bias': torch.zeros(1)}, 'conv1'),
    ],
)
def test_weights_of_which_none_matches_are_refused(load, change, named, said, tmp_path):
    """mmengine only warns: training would start from random weights."""
    model = build()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=named) as raised:
        LOADS[load](model, change(build().state_dict()), tmp_path / 'x.pth')
    assert 'none of the weights matches the backbone VHeat' in str(raised.value)
    assert '\n' not in str(raised.value) and said() == []
    if load != 'init_cfg':
        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


CONV = 'patch_embed.conv1.weight'
CHANNELS = [1, 2, 4, 5, 12]
WORDS = f'{CONV} adapted from 3 to {{}} input channels'


@pytest.mark.parametrize('channels', [1, 3, 6, 12])
def test_repeated_channels_give_what_the_image_gives(channels):
    """One channel stands for three grey ones."""
    rgb, other = build().eval(), build(in_channels=channels).eval()
    other.load_state_dict(rgb.state_dict())
    image = torch.rand(2, min(channels, 3), 32, 24)
    with torch.no_grad():
        expected = rgb(image.expand(2, 3, 32, 24))
        outs = other(image.repeat(1, channels // image.size(1), 1, 1))
    for out, want in zip(outs, expected, strict=True):
        torch.testing.assert_close(out, want)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('channels', CHANNELS)
def test_channels_are_adapted_as_timm_does(channels, dtype):
    timm_models = pytest.importorskip('timm.models')
    weight = torch.randn(8, 3, 3, 3, dtype=dtype)
    adapted = adapt_input_channels(weight, channels)
    assert adapted.dtype == dtype and adapted.shape == (8, channels, 3, 3)
    # It computes float64 in float32.
    expected = timm_models.adapt_input_conv(channels, weight)
    torch.testing.assert_close(adapted, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('channels', CHANNELS[1:])
def test_each_channel_is_one_of_the_three_scaled(channels):
    weight = torch.randn(8, 3, 3, 3)
    adapted = adapt_input_channels(weight, channels)
    for i in range(channels):
        torch.testing.assert_close(adapted[:, i] * channels, weight[:, i % 3] * 3)


def assert_adapted(model, source, said):
    """The first convolution is adapted, all else as in the source, and one line tells it."""
    (record,) = said()
    channels = model.patch_embed.conv1.in_channels
    assert record.getMessage().count(WORDS.format(channels)) == 1
    assert record.levelno == logging.INFO
    state = model.state_dict()
    assert state.keys() <= source.keys()
    expected = dict(source, **{CONV: adapt_input_channels(source[CONV], channels)})
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize('load', LOADS)
@pytest.mark.parametrize('channels', [1, 4, 12])
def test_a_checkpoint_for_rgb_images_fits_other_channels(load, channels, said, tmp_path):
    source, model = build().state_dict(), build(in_channels=channels)
    LOADS[load](model, dict(source), tmp_path / 'x.pth')
    assert_adapted(model, source, said)


FORMS = ['published', 'classification', 'backbone', 'downstream']


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('form', FORMS)
def test_files_of_every_form_fit_other_channels(form, suffix, said, tmp_path):
    if suffix == '.safetensors':
        pytest.importorskip('safetensors')
    arch = dict(depths=[1, 1, 1, 1], dims=4)
    backbone = VHeat(arch, img_size=32, out_indices=3)
    published = backbone.state_dict()
    for part in ('weight', 'bias'):
        published[f'classifier.0.{part}'] = published.pop(f'outnorm3.{part}')
    published |= {'classifier.3.weight': torch.ones(2, 32), 'classifier.3.bias': torch.ones(2)}
    torch.save({'model': published}, tmp_path / 'vheat.pth')
    path = str(tmp_path / f'{form}{suffix}')
    change_file(str(tmp_path / 'vheat.pth'), path, form)
    prefix = None if form == 'backbone' else 'backbone.'
    init_cfg = dict(type='Pretrained', checkpoint=path, prefix=prefix)
    model = VHeat(arch, in_channels=4, img_size=32, out_indices=3, init_cfg=init_cfg)
    model.init_weights()
    assert_adapted(model, backbone.state_dict(), said)


def test_a_published_backbone_of_other_channels(said, tmp_path):
    arguments = dict(depths=[1, 1, 1, 1], dims=4, post_norm=False, img_size=32)
    source = MMDET_VHEAT(**arguments).state_dict()
    torch.save({'model': source}, tmp_path / 'vheat.pth')
    model = MMDET_VHEAT(**arguments, in_chans=4, pretrained=str(tmp_path / 'vheat.pth'))
    model.init_weights()
    assert_adapted(model, source, said)


def test_a_folded_checkpoint_fits_other_channels(said):
    source = build().fold().state_dict()
    model = build(in_channels=4, inference_form=True)
    model.load_state_dict(dict(source))
    assert_adapted(model, source, said)


@pytest.mark.parametrize(('given', 'wanted'), [(4, 3), (4, 5), (1, 3), (12, 1)])
def test_other_numbers_of_channels_do_not_fit(given, wanted, said):
    """As torch says it; where mmengine only warns, in one line."""
    state = build(in_channels=given).state_dict()
    with pytest.raises(RuntimeError, match=f'size mismatch for {CONV}'):
        build(in_channels=wanted).load_state_dict(state)
    load_state_dict(build(in_channels=wanted), state)
    _, record = said()
    line = record.getMessage()
    assert record.levelno == logging.WARNING and '\n' not in line
    assert f'1 of another shape ({CONV} (2, {given}, 3, 3), not (2, {wanted}, 3, 3))' in line


def test_a_head_alone_may_be_loaded(said):
    model = nn.ModuleDict(dict(backbone=build(), head=nn.Linear(2, 2)))
    load_state_dict(model, {'head.weight': torch.zeros(2, 2), 'head.bias': torch.zeros(2)})
    assert torch.equal(model['head'].weight, torch.zeros(2, 2))
    (record,) = said()
    assert 'backbone.VHeat: 0 keys matched' in record.getMessage()
