"""What may stand in the place of conduction: each against the reference, and by what it says."""

import pytest
import torch
from torch import Tensor, nn

from mmvheat.layers import Heat2D
from mmvheat.layers.heat2d import FilterOperator2D, HeatVariant2D, make_operator
from mmvheat.layers.mixers import make_mixer
from mmvheat.ops.reference import (
    dct_filter_reference,
    global_filter_reference,
    heat_conduction_reference,
)

DIM = 4
VARIANTS = {
    'predicted': {},
    'learned': dict(diffusivity='learned'),
    'shared': dict(diffusivity='shared'),
    'fixed': dict(diffusivity='fixed', k=0.7),
    'dct_filter': dict(operator='dct_filter'),
    'global_filter': dict(operator='global_filter'),
    'identity': dict(operator='identity'),
}


def loud(mixer: nn.Module) -> nn.Module:
    """Give it weights that matter, of both signs."""
    for parameter in mixer.parameters():
        nn.init.normal_(parameter, std=0.7)
    return mixer


def reference(mixer: nn.Module, x: Tensor, variant: str) -> Tensor:
    """What the variant says it computes, at the size that it is made for, in float64."""
    size = x.shape[1:]
    if variant == 'identity':
        return x.double()
    if variant == 'dct_filter':
        return dct_filter_reference(x, mixer.dct_filter)
    if variant == 'global_filter':
        return global_filter_reference(x, mixer.global_filter)
    if variant == 'predicted':
        linear = mixer.to_k[0]
        k = mixer.freq_embed.double() @ linear.weight.double().T + linear.bias.double()
    else:
        k = mixer.k.double()
    return heat_conduction_reference(x, k.clamp(min=0).expand(size))


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('size', [(1, 1), (5, 3), (1, 6), (4, 4)])
@pytest.mark.parametrize('variant', VARIANTS)
def test_it_agrees_with_the_reference_forward_and_backward(variant, size, dtype):
    mixer = loud(make_mixer(DIM, size, **VARIANTS[variant]))
    if dtype == torch.float64:
        mixer.double()
    x = torch.randn(2, *size, DIM, dtype=torch.float64).to(dtype).requires_grad_()
    out, truth = mixer(x), reference(mixer, x, variant)
    assert out.dtype == dtype
    close = {
        torch.float64: dict(atol=1e-11, rtol=0),
        torch.float32: dict(atol=1e-4, rtol=1e-4),
        torch.bfloat16: dict(atol=0.06, rtol=0.06),
    }[dtype]
    torch.testing.assert_close(out.double(), truth, **close)
    seed = torch.randn_like(truth)
    leaves = [x, *mixer.parameters()]
    grads = torch.autograd.grad(out, leaves, seed.to(dtype))
    expected = torch.autograd.grad(truth, leaves, seed.to(dtype).double())
    for grad, wanted in zip(grads, expected, strict=True):
        scale = max(1, wanted.abs().max().item())
        torch.testing.assert_close(grad.double() / scale, wanted.double() / scale, **close)


@pytest.mark.parametrize('variant', VARIANTS)
def test_any_other_size_is_taken(variant):
    mixer = make_mixer(DIM, (4, 6), **VARIANTS[variant])
    for size in [(1, 1), (9, 7), (4, 13)]:
        x = torch.randn(2, *size, DIM, requires_grad=True)
        out = mixer(x)
        assert out.shape == x.shape
        out.square().sum().backward()
        # A map of one position is its mean, which heat leaves.
        conducts = size != (1, 1) or VARIANTS[variant].get('operator')
        for leaf in (x, *mixer.parameters()):
            assert leaf.grad.isfinite().all() and (leaf.grad.any() or not conducts)
            leaf.grad = None


@pytest.mark.parametrize('variant', [name for name in VARIANTS if name != 'fixed'])
def test_a_new_one_is_almost_the_identity(variant):
    """So that all variants start from the same function."""
    x = torch.randn(2, 7, 6, DIM)
    out = make_mixer(DIM, (7, 6), **VARIANTS[variant])(x)
    assert (out - x).square().mean() < 0.1 * x.square().mean()


@pytest.mark.parametrize('size', [(1, 1), (5, 6), (1, 7)])
def test_fixed_at_zero_is_the_identity_and_a_large_value_leaves_the_mean(size):
    x = torch.randn(2, *size, DIM)
    mean = x.mean((1, 2), keepdim=True).expand_as(x)
    for k, expected in ((0, x), (1e6, mean)):
        mixer = make_mixer(DIM, (3, 3), diffusivity='fixed', k=k)
        torch.testing.assert_close(mixer(x), expected, atol=1e-5, rtol=0)
    assert not list(mixer.parameters()) and list(mixer.state_dict()) == ['k']


@pytest.mark.parametrize('size', [(6, 5), (9, 4)])
@pytest.mark.parametrize('variant', ['learned', 'shared', 'fixed', 'dct_filter'])
@torch.no_grad()
def test_a_folded_operator_computes_the_same(variant, size):
    operator = make_operator(DIM, (6, 5), **VARIANTS[variant])
    x = torch.randn(2, *size, DIM)
    expected = operator(x)
    operator.fold_for(size)
    assert operator.mixer is None and operator.k_exp.shape == (*size, DIM)
    torch.testing.assert_close(operator(x), expected, atol=1e-6, rtol=1e-6)


def test_the_operator_is_chosen_once():
    assert type(make_operator(DIM, (3, 3))) is Heat2D
    for name, options in VARIANTS.items():
        if name != 'predicted':
            operator = make_operator(DIM, (3, 3), **options, dwconv=False)
            filters = name in ('global_filter', 'identity')
            assert type(operator) is (FilterOperator2D if filters else HeatVariant2D)
            names = {key.split('.')[0] for key in operator.state_dict()} - {'mixer'}
            assert names == {'linear', 'out_norm', 'out_linear'}


@torch.no_grad()
def test_without_the_convolution_positions_are_mixed_by_heat_alone():
    """A pixel of the identity without it sees nothing but itself."""
    x = torch.randn(1, 5, 5, DIM)
    moved = x.clone()
    moved[0, 0, 0] += 1
    for options, reach in (({}, True), (VARIANTS['identity'], False)):
        operator = make_operator(DIM, (5, 5), **options, dwconv=False)
        for parameter in operator.parameters():
            nn.init.normal_(parameter)
        given = (torch.randn(5, 5, DIM),) if not options else ()
        change = (operator(moved, *given) - operator(x, *given))[0, 3, 3].abs().max()
        assert bool(change > 1e-4) == reach


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(operator='fft'), 'operator is one of heat, global_filter, dct_filter, identity'),
        (dict(diffusivity='given'), 'diffusivity is one of predicted, learned, shared, fixed'),
        (dict(operator='identity', diffusivity='shared'), "only operator='heat' has a diffusivity"),
        (dict(diffusivity='fixed'), 'needs k, a number from 0, got k=None'),
        (dict(diffusivity='fixed', k=-1), 'needs k, a number from 0, got k=-1'),
        (dict(diffusivity='fixed', k=float('nan')), 'got k=nan'),
        (dict(diffusivity='fixed', k=True), 'got k=True'),
        (dict(diffusivity='learned', k=1.0), "k is the number of diffusivity='fixed'"),
    ],
)
def test_what_is_unknown_or_does_not_belong_together_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_mixer(DIM, (3, 3), **options)
