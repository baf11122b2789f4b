"""Forward-mode differentiation: tangents equal those of plain torch and of reverse mode."""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from mmvheat.layers import HeatBlock
from mmvheat.models import VHeat
from mmvheat.ops import (
    conduct,
    gated_linear,
    heat_conduction,
    kernels_available,
    linear,
    mlp,
    resize_freq_embed,
    use_kernels,
)

C, D = 6, 10


def gate(u, z, norm_weight, norm_bias, weight, bias):
    return gated_linear(u, z, norm_weight, norm_bias, 1e-5, weight, bias)


CASES = {
    'linear': (linear, [(2, 3, 5, C), (D, C), (D,)]),
    'mlp': (mlp, [(2, 3, 5, C), (D, C), (D,), (C, D), (C,)]),
    'gated_linear': (gate, [(2, 3, 5, C), (2, 3, 5, C), (C,), (C,), (D, C), (D,)]),
    'resize_freq_embed': (lambda embed: resize_freq_embed(embed, (7, 4)), [(3, 5, C)]),
    'conduction': (lambda x, k: heat_conduction(x, k.abs()), [(2, 3, 5, C), (3, 5, C)]),
}


def dual(function, given: list[Tensor], tangents: list[Tensor]) -> Tensor | None:
    """Tangent of the result, by dual tensors."""
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(*pair) for pair in zip(given, tangents, strict=True)]
        return forward_ad.unpack_dual(function(*duals)).tangent


@pytest.mark.parametrize('recorded', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('name', CASES)
def test_tangents_of_an_operator(name, dtype, recorded):
    function, shapes = CASES[name]
    given = [torch.randn(shape, dtype=dtype, requires_grad=recorded) for shape in shapes]
    plain = [tensor.detach() for tensor in given]
    tangents = [torch.randn_like(tensor) for tensor in plain]
    # Finite differences in float64.
    step, wide = 1e-6, [(p.double(), t.double()) for p, t in zip(plain, tangents, strict=True)]
    above, below = (function(*(p + s * t for p, t in wide)) for s in (step, -step))
    truth = ((above - below) / (2 * step)).to(dtype)
    atol = 1e-4 if dtype == torch.float32 else 1e-7
    torch.testing.assert_close(dual(function, given, tangents), truth, atol=atol, rtol=1e-5)
    for transformed in (
        torch.func.jvp(function, tuple(plain), tuple(tangents))[1],
        torch.func.linearize(function, *plain)[1](*tangents),
    ):
        torch.testing.assert_close(transformed, truth, atol=atol, rtol=1e-5)


@pytest.mark.parametrize('name', ['mlp', 'gated_linear', 'conduction'])
def test_jacobians_agree(name):
    function, shapes = CASES[name]
    given = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    forward, reverse = (
        jacobian(lambda x: function(x, *given[1:])[:1, :2, :2, :2])(given[0])
        for jacobian in (torch.func.jacfwd, torch.func.jacrev)
    )
    torch.testing.assert_close(forward, reverse)


@pytest.mark.parametrize('name', CASES)
def test_forward_over_reverse(name):
    """A tangent of the gradient is a product with the Hessian, which reverse mode gives too."""
    function, shapes = CASES[name]
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    tangents = [torch.randn_like(tensor) for tensor in given]

    def gradient(*given: Tensor) -> tuple[Tensor, ...]:
        # With a graph: else torch takes its own silu_backward, which has no forward mode.
        return torch.autograd.grad(function(*given).square().sum(), given, create_graph=True)

    first = gradient(*given)
    product = sum((g * t).sum() for g, t in zip(first, tangents, strict=True))
    expected = torch.autograd.grad(product, given)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(*pair) for pair in zip(given, tangents, strict=True)]
        found = [forward_ad.unpack_dual(grad).tangent for grad in gradient(*duals)]
    for tangent, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(tangent, wanted)


@pytest.mark.parametrize('name', ['mlp', 'gated_linear', 'conduction'])
def test_a_graph_from_before_is_differentiated_forward(name):
    """The backward passes written by hand carry the tangent of the gradient they are given."""
    function, shapes = CASES[name]
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    result = function(*given)
    seed, tangent = torch.randn_like(result), torch.randn_like(result)
    expected = torch.autograd.grad(result, given, tangent, retain_graph=True)
    with forward_ad.dual_level():
        grads = torch.autograd.grad(result, given, forward_ad.make_dual(seed, tangent))
        found = [forward_ad.unpack_dual(grad).tangent for grad in grads]
    for one, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(one, wanted)


def models() -> dict[str, tuple]:
    block = HeatBlock(C, post_norm=True, layer_scale_init_value=0.5)
    arch = dict(depths=[1, 2], dims=8, post_norm=True, layer_scale_init_value=0.5)
    backbone = VHeat(arch, img_size=32, out_indices=(0, 1))
    for model in (block, backbone):
        for name, parameter in model.named_parameters():
            if 'to_k' in name or 'freq_embed' in name:
                torch.nn.init.normal_(parameter)
    return {
        'block': (block, [(2, 5, 7, C), (5, 7, C)], lambda out: out),
        'backbone': (backbone, [(2, 3, 40, 28)], lambda outs: outs[1]),
    }


@pytest.mark.parametrize('recorded', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('name', ['block', 'backbone'])
def test_tangents_of_a_model(name, dtype, recorded):
    """For any u and v, v . (J u) by forward mode is (v J) . u by reverse mode."""
    model, shapes, pick = models()[name]
    model = model.to(dtype).eval()
    given = [torch.randn(shape, dtype=dtype) for shape in shapes]
    state = {n: p.detach() for n, p in model.named_parameters() if 'outnorm0' not in n}
    names, values = list(state), [*given, *state.values()]
    tangents = [torch.randn_like(value) for value in values]

    def function(*values: Tensor) -> Tensor:
        inputs, weights = values[: len(given)], values[len(given) :]
        named = dict(zip(names, weights, strict=True))
        return pick(torch.func.functional_call(model, named, inputs))

    leaves = [value.clone().requires_grad_() for value in values]
    with torch.enable_grad():
        result = function(*leaves)
        v = torch.randn_like(result)
        grads = torch.autograd.grad(result, leaves, v)
    products = [(g * t).sum().item() for g, t in zip(grads, tangents, strict=True)]
    close = dict(rel=1e-4 if dtype == torch.float32 else 1e-10)
    close['abs'] = close['rel'] * sum(map(abs, products))
    with torch.set_grad_enabled(recorded):
        pick(model(*given))  # fills the backbone's cache, if nothing is recorded
        _, by_func = torch.func.jvp(function, tuple(values), tuple(tangents))
        by_dual = dual(function, values, tangents)
        of_inputs = dual(lambda *x: pick(model(*x)), given, tangents[: len(given)])
    for tangent in (by_func, by_dual):
        assert (v * tangent).sum().item() == pytest.approx(sum(products), **close)
    expected = pytest.approx(sum(products[: len(given)]), **close)
    assert (v * of_inputs).sum().item() == expected


@pytest.mark.skipif(not kernels_available('cpu'), reason="needs Triton's interpreter")
def test_the_fused_kernels_step_aside():
    x, decay, t = torch.randn(1, 7, 6, 4).bfloat16(), torch.rand(7, 6, 4), torch.randn(1, 7, 6, 4)
    function, given = (lambda x: conduct(x, decay)), ([x], [t.bfloat16()])
    expected = dual(function, *given)
    with use_kernels():
        torch.testing.assert_close(dual(function, *given), expected)
