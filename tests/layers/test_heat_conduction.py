"""The module for other people's networks."""

import copy

import pytest
import torch

from mmvheat.layers import Heat2D, HeatConduction2d
from mmvheat.ops import conduct


@pytest.mark.parametrize('projections', [True, False])
@pytest.mark.parametrize('size', [(1, 1), (9, 14), (20, 33)])
@torch.no_grad()
def test_both_layouts_compute_the_same(size, projections):
    first = HeatConduction2d(6, size=(9, 14), projections=projections)
    last = HeatConduction2d(6, size=(9, 14), projections=projections, channels_first=False)
    last.load_state_dict(first.state_dict())
    x = torch.randn(2, 6, *size)
    out = first(x)
    assert out.shape == x.shape
    torch.testing.assert_close(out, last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    torch.testing.assert_close(copy.deepcopy(first)(x), out, atol=0, rtol=0)


@torch.no_grad()
def test_it_is_the_operator_of_the_backbone_with_an_embedding_of_its_own():
    module, operator = HeatConduction2d(8, size=(5, 6)), Heat2D(8)
    state = {
        name.removeprefix('mix.').replace('mixer.to_k', 'to_k'): tensor.normal_()
        for name, tensor in module.state_dict().items()
    }
    embed = state.pop('mixer.freq_embed')
    operator.load_state_dict(state)
    x = torch.randn(2, 8, 5, 6)
    expected = operator(x.permute(0, 2, 3, 1), embed).permute(0, 3, 1, 2)
    torch.testing.assert_close(module(x), expected)
    # Alone it is conduction with what that embedding predicts.
    alone = HeatConduction2d(8, size=(5, 6), projections=False)
    alone.mix.load_state_dict({'freq_embed': embed, **{k: state[k] for k in state if 'to_k' in k}})
    expected = conduct(x.permute(0, 2, 3, 1), operator.decay(embed)).permute(0, 3, 1, 2)
    torch.testing.assert_close(alone(x), expected)


@pytest.mark.parametrize('options', [{}, dict(operator='global_filter'), dict(dwconv=False)])
def test_it_trains_under_autocast_and_in_bfloat16(options):
    module = HeatConduction2d(4, size=5, **options)
    x = torch.randn(2, 4, 7, 5)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        module(x).float().square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in module.parameters())
    out = module.bfloat16()(x.bfloat16())
    assert out.dtype == torch.bfloat16 and out.isfinite().all()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(dim=0), 'dim is a positive number of channels, got 0'),
        (dict(dim=4, size=0), 'size is a positive number of positions or two'),
        (dict(dim=4, size=(1, 2, 3)), r'or two \(height, width\), got \(1, 2, 3\)'),
        (dict(dim=4, diffusivity='given'), 'diffusivity is one of'),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        HeatConduction2d(**arguments)


def test_maps_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r'expected \(B, C, H, W\) with C = 4, got \(2, 5, 3, 3\)'):
        HeatConduction2d(4)(torch.zeros(2, 5, 3, 3))
    with pytest.raises(ValueError, match=r'expected \(B, H, W, C\) with C = 4, got \(2, 3, 4\)'):
        HeatConduction2d(4, channels_first=False)(torch.zeros(2, 3, 4))
