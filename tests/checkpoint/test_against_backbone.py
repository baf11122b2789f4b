"""A converted checkpoint and the backbone agree about what a resize means."""

import pytest
import torch
from golden import golden_arch, golden_state, golden_tensor

from mmvheat.checkpoint import convert_file, convert_state_dict
from mmvheat.models import VHeat

STATE = {k: v for k, v in golden_state('tiny_like').items() if not k.startswith('classifier')}


def build(size, **kwargs):
    return VHeat(arch=golden_arch('tiny_like'), img_size=size, **kwargs).eval()


def bare(converted):
    return {name.removeprefix('backbone.'): tensor for name, tensor in converted.items()}


@pytest.mark.parametrize('size', [(128, 128), (32, 32), (77, 101), (64, 160)])
def test_converting_equals_resizing_on_load_and_at_run_time(size):
    images = golden_tensor(2, (1, 3, *size))
    at_run_time, on_load, converted = build(64), build(size), build(size)
    at_run_time.load_state_dict(STATE)
    on_load.load_state_dict(STATE)
    converted.load_state_dict(bare(convert_state_dict(STATE, 64, size)[0]))

    for ours, theirs in zip(converted.freq_embed, on_load.freq_embed, strict=True):
        assert torch.equal(ours, theirs)
    with torch.no_grad():
        expected = at_run_time(images)
        for model in (on_load, converted):
            for ours, theirs in zip(model(images), expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_modes_differ_where_they_should():
    """Otherwise the equality above would hold for any mode."""
    images = golden_tensor(2, (1, 3, 128, 128))
    outputs = {}
    for mode in ('bicubic', 'pad', 'frequency'):
        model = build(128)
        model.load_state_dict(bare(convert_state_dict(STATE, 64, 128, mode)[0]))
        with torch.no_grad():
            outputs[mode] = model(images)[-1]
    assert (outputs['bicubic'] - outputs['pad']).abs().max() > 1e-2
    assert (outputs['bicubic'] - outputs['frequency']).abs().max() > 1e-2


@pytest.mark.parametrize('name', ['out.pth', 'out.safetensors'])
def test_init_cfg_takes_the_file(tmp_path, name):
    torch.save({'model': STATE}, tmp_path / 'in.pth')
    convert_file(tmp_path / 'in.pth', tmp_path / name, 64, (96, 128))
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / name), prefix='backbone.')
    model = build((96, 128), init_cfg=init_cfg)
    model.init_weights()
    expected = bare(convert_state_dict(STATE, 64, (96, 128))[0])
    loaded = model.state_dict()
    assert loaded.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(loaded[key], tensor), key
