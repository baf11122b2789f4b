"""Linear layers, MLP and gate: each path equals plain torch, forward, backward and beyond."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from saved_tensors import saved_tensors
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmvheat.ops import conduct, fused, gated_linear, linear, mlp

C, D = 6, 10


def plain_linear(x, weight, bias):
    return F.linear(x, weight, bias)


def plain_mlp(x, weight1, bias1, weight2, bias2):
    return F.linear(F.gelu(F.linear(x, weight1, bias1)), weight2, bias2)


def plain_gated_linear(u, z, norm_weight, norm_bias, weight, bias):
    normed = F.layer_norm(u, (C,), norm_weight, norm_bias, 1e-5)
    return F.linear(normed * F.silu(z), weight, bias)


def our_gated_linear(u, z, norm_weight, norm_bias, weight, bias):
    return gated_linear(u, z, norm_weight, norm_bias, 1e-5, weight, bias)


@pytest.fixture(params=[None, False, True], ids=['this', 'intel', 'other'], autouse=True)
def cpu(request, monkeypatch):
    """Take the path of this CPU as it is found out, and those of both kinds."""
    if request.param is not None:
        monkeypatch.setattr(fused, 'mkl_is_slow', lambda: request.param)


CASES = {
    'linear': (linear, plain_linear, [(D, C), (D,)]),
    'mlp': (mlp, plain_mlp, [(D, C), (D,), (C, D), (C,)]),
    'gated_linear': (our_gated_linear, plain_gated_linear, [(C,), (C,), (D, C), (D,)]),
}
LAYOUTS = {
    'contiguous': lambda: torch.randn(2, 3, 5, C),
    'channels_first_memory': lambda: torch.randn(2, C, 3, 5).permute(0, 2, 3, 1),
    'half_of_the_channels': lambda: torch.randn(2, 3, 5, 2 * C)[..., C:],
    'one_token': lambda: torch.randn(1, 1, 1, C),
    'empty': lambda: torch.randn(0, 3, 5, C),
}


def arguments(name: str, layout: str = 'contiguous', dtype=torch.float32) -> list[Tensor]:
    make = LAYOUTS[layout]
    maps = [make(), make()] if name == 'gated_linear' else [make()]
    return [t.to(dtype) for t in (*maps, *(torch.randn(shape) for shape in CASES[name][2]))]


@pytest.mark.parametrize('recorded', [False, True])
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('name', CASES)
def test_equals_plain_torch(name, layout, recorded):
    ours, plain, _ = CASES[name]
    given = [tensor.requires_grad_(recorded) for tensor in arguments(name, layout)]
    before = [tensor.detach().clone() for tensor in given]
    result, expected = ours(*given), plain(*given)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(*pair) for pair in zip(given, before, strict=True))
    if recorded:
        seed = torch.randn_like(expected)
        grads = torch.autograd.grad(result, given, seed)
        for grad, wanted in zip(grads, torch.autograd.grad(expected, given, seed), strict=True):
            torch.testing.assert_close(grad, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('name', CASES)
def test_first_and_second_derivatives(name):
    given = [tensor.requires_grad_() for tensor in arguments(name, dtype=torch.float64)]
    assert torch.autograd.gradcheck(CASES[name][0], given)
    assert torch.autograd.gradgradcheck(CASES[name][0], given)


@pytest.mark.parametrize('name', [*CASES, 'conduct'])
def test_a_backward_pass_leaves_everything_as_it_is(name):
    """It overwrites memory of its own alone: the next one, and one of many at once, are right."""
    if name == 'conduct':
        function, given = conduct, [torch.randn(2, 3, 5, C), torch.rand(3, 5, C)]
    else:
        function, given = CASES[name][0], arguments(name)
    given = [tensor.requires_grad_() for tensor in given]
    result = function(*given)
    seeds = torch.randn(2, *result.shape)
    before = [tensor.detach().clone() for tensor in (*given, result, seeds)]

    def backward(seed: Tensor, batched: bool = False) -> tuple[Tensor, ...]:
        options = dict(retain_graph=True, is_grads_batched=batched)
        return torch.autograd.grad(result, given, seed, **options)

    first, other, again, both = *map(backward, seeds), backward(seeds[0]), backward(seeds, True)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert all(torch.equal(*p) for p in zip((*given, result, seeds), before, strict=True))
    for grads, *wanted in zip(both, first, other, strict=True):
        torch.testing.assert_close(grads, torch.stack(wanted))


@pytest.mark.parametrize('frozen', ['maps', 'weights'])
@pytest.mark.parametrize('name', CASES)
def test_what_is_frozen_gets_no_gradient_and_the_rest_the_same(name, frozen):
    ours, plain, shapes = CASES[name]
    given = arguments(name)
    number = len(given) - len(shapes)
    trained = given[number:] if frozen == 'maps' else given[:number]
    for tensor in trained:
        tensor.requires_grad_()
    expected = torch.autograd.grad(plain(*given).square().sum(), trained)
    for grad, wanted in zip(
        torch.autograd.grad(ours(*given).square().sum(), trained), expected, strict=True
    ):
        torch.testing.assert_close(grad, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('recorded', [False, True])
@pytest.mark.parametrize('inside', ['autocast', 'half'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('name', CASES)
def test_low_precision_errs_at_most_twice_as_much_as_plain_torch(name, dtype, inside, recorded):
    ours, plain, _ = CASES[name]
    narrow = arguments(name, dtype=dtype)
    truth = [tensor.double().requires_grad_() for tensor in narrow]
    given = narrow if inside == 'half' else [tensor.float() for tensor in narrow]
    context = torch.autocast('cpu', dtype) if inside == 'autocast' else contextlib.nullcontext()
    seed = torch.randn_like(plain(*truth))
    expected = [plain(*truth), *torch.autograd.grad(plain(*truth), truth, seed)]

    def errors(function) -> list[float]:
        leaves = [tensor.detach().clone().requires_grad_(recorded) for tensor in given]
        with context:
            result = function(*leaves)
        assert result.dtype == dtype
        results = [result]
        if recorded:
            results += torch.autograd.grad(result, leaves, seed.to(dtype))
            assert [r.dtype for r in results[1:]] == [leaf.dtype for leaf in leaves]
        return [
            (one.double() - wanted).norm().item() / wanted.norm().item()
            for one, wanted in zip(results, expected, strict=False)
        ]

    floor = torch.finfo(dtype).eps
    for error, allowed in zip(errors(ours), errors(plain), strict=True):
        assert error <= 2 * allowed + floor


@pytest.mark.parametrize('name', CASES)
def test_compiles_without_a_graph_break(name):
    torch.compiler.reset()
    ours, plain, _ = CASES[name]
    compiled = torch.compile(ours, fullgraph=True, backend='aot_eager')
    given = [tensor.requires_grad_() for tensor in arguments(name)]
    result, expected = compiled(*given), plain(*given)
    torch.testing.assert_close(result, expected)
    for grad, wanted in zip(
        torch.autograd.grad(result.sum(), given),
        torch.autograd.grad(expected.sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(grad, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('recorded', [False, True])
@pytest.mark.parametrize('name', CASES)
def test_flop_counters_and_functional_transforms_see_plain_torch(name, recorded):
    ours, plain, _ = CASES[name]
    given = [tensor.requires_grad_(recorded) for tensor in arguments(name)]

    def flops(function) -> int:
        with FlopCounterMode(display=False) as counter:
            function(*given)
        return counter.get_total_flops()

    assert flops(ours) == flops(plain) > 0
    grads = torch.func.grad(lambda x: ours(x, *given[1:]).sum())(given[0].detach())
    wanted = torch.func.grad(lambda x: plain(x, *given[1:]).sum())(given[0].detach())
    torch.testing.assert_close(grads, wanted)
    each = torch.vmap(lambda x: ours(x, *[t[0] if t.dim() == 4 else t for t in given[1:]]))
    if name != 'gated_linear':
        torch.testing.assert_close(each(given[0]), plain(*given))


def test_mixed_dtypes_are_refused_as_torch_refuses_them():
    with pytest.raises(RuntimeError, match='dtype'):
        linear(torch.zeros(2, C), torch.zeros(D, C, dtype=torch.bfloat16), torch.zeros(D))


def saved_bytes(function, *given: Tensor) -> int:
    """Memory that a backward pass keeps, leaves aside, each storage once."""
    kept = saved_tensors(lambda: function(*given), leaves=given)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept)


def test_nothing_is_kept_for_the_backward_pass_that_can_be_had_again():
    x, z = torch.randn(4, 8, 8, C, requires_grad=True), torch.randn(4, 8, 8, C)
    size = x.nbytes
    weights = {name: [torch.randn(s, requires_grad=True) for s in CASES[name][2]] for name in CASES}
    assert saved_bytes(mlp, x, *weights['mlp']) == size * D / C  # the hidden layer before GELU
    assert saved_bytes(our_gated_linear, x, z, *weights['gated_linear']) == 0
    assert saved_bytes(conduct, x, torch.rand(8, 8, C, requires_grad=True)) == 0
