"""The constants' cache: bounded, right for every dtype, and never poisoned by a mode."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmvheat.layers import Heat2D
from mmvheat.ops import dct, heat, heat_conduction
from mmvheat.ops.tensor_cache import ConstantCache

LIKE = torch.zeros(1)


@pytest.fixture(autouse=True)
def empty_caches(monkeypatch):
    """Give each test caches of its own."""
    monkeypatch.setattr(dct, '_BASES', ConstantCache(512))
    monkeypatch.setattr(heat, '_SQUARED_FREQUENCIES', ConstantCache(128))


def conduct(height: int, width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Conduct heat and send a gradient back; return the temperature."""
    x = torch.linspace(-1, 2, height * width).reshape(1, height, width, 1).to(dtype)
    k = torch.linspace(0, 1, height * width).reshape(height, width, 1).to(dtype)
    warm = heat_conduction(x.requires_grad_(), k.requires_grad_())
    warm.square().sum().backward()
    assert x.grad.isfinite().all() and k.grad.isfinite().all()
    return warm.detach()


def test_the_least_recently_used_goes_first():
    cache = ConstantCache(capacity=2)
    made = []

    def get(name: str) -> torch.Tensor:
        return cache.get(name, lambda: made.append(name) or torch.zeros(1), LIKE)

    first = get('a')
    get('b')
    assert get('a') is first
    get('c')  # evicts b, for a was used since
    get('a')
    get('b')
    assert made == ['a', 'b', 'c', 'b']
    assert len(cache) == 2


def test_many_sizes_stay_within_the_bound():
    for size in range(1, 400):
        heat_conduction(torch.zeros(1, size, 1, 1), torch.zeros(size, 1, 1))
    assert len(dct._BASES) == 512
    assert len(heat._SQUARED_FREQUENCIES) == 128


def test_a_second_call_makes_nothing(monkeypatch):
    first = conduct(5, 8)
    monkeypatch.setattr(dct, 'dct_basis', None)
    monkeypatch.setattr(torch, 'arange', None)
    assert torch.equal(conduct(5, 8), first)


def test_each_dtype_has_constants_of_its_own():
    single = conduct(9, 6)
    double = conduct(9, 6, torch.float64)
    assert double.dtype == torch.float64
    # Had float64 been served float32's constants, it would be off by 1e-8.
    truth = heat.heat_conduction(
        torch.linspace(-1, 2, 54).reshape(1, 9, 6, 1).double(),
        torch.linspace(0, 1, 54).reshape(9, 6, 1).double(),
    )
    torch.testing.assert_close(double, truth, atol=1e-13, rtol=0)
    assert 0 < (double - single).abs().max() < 1e-5
    torch.testing.assert_close(conduct(9, 6, torch.float16), single.half(), atol=5e-3, rtol=0)
    assert torch.equal(conduct(9, 6), single)


def test_a_layer_stays_right_when_it_is_moved_and_copied():
    x, embed = torch.randn(1, 6, 5, 4), torch.randn(6, 5, 4)
    layer = Heat2D(4)
    before = layer(x, embed)
    double = copy.deepcopy(layer).double()(x.double(), embed.double())
    torch.testing.assert_close(double.float(), before, atol=1e-5, rtol=0)
    half = copy.deepcopy(layer).to(torch.bfloat16)(x.bfloat16(), embed.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), before, atol=0.1, rtol=0.1)
    torch.testing.assert_close(copy.deepcopy(layer)(x, embed), before, atol=1e-6, rtol=0)
    assert not list(layer.buffers())


@pytest.mark.parametrize('context', [torch.inference_mode, torch.no_grad], ids=lambda c: c.__name__)
def test_constants_made_without_gradients_serve_training(context):
    with context():
        before = heat_conduction(torch.ones(1, 4, 7, 1), torch.ones(4, 7, 1))
    assert len(dct._BASES) == 4
    conduct(4, 7)
    torch.testing.assert_close(before.clone(), torch.ones(1, 4, 7, 1))


@pytest.mark.parametrize('real_input', [False, True])
def test_fake_tensors_do_not_poison_the_cache(real_input):
    x, k = torch.ones(1, 4, 6, 1), torch.ones(4, 6, 1)
    with FakeTensorMode(allow_non_fake_inputs=real_input) as mode:
        arguments = (x, k) if real_input else (mode.from_tensor(x), mode.from_tensor(k))
        assert heat_conduction(*arguments).shape == x.shape
    warm = heat_conduction(x, k)
    assert type(warm) is torch.Tensor
    torch.testing.assert_close(warm, x)


def test_compiling_and_functional_transforms_do_not_poison_the_cache():
    torch.compiler.reset()
    x, k = torch.randn(1, 3, 8, 2), torch.rand(3, 8, 2)
    torch.compile(heat_conduction, backend='aot_eager')(x, k)
    assert len(dct._BASES) == 0, 'a constant made under a tracer must not outlive it'

    def energy(x: torch.Tensor) -> torch.Tensor:
        return heat_conduction(x, k).square().sum()

    functional = torch.func.grad(energy)(x)
    x.requires_grad_()
    energy(x).backward()
    torch.testing.assert_close(x.grad, functional)
    one_by_one = torch.vmap(lambda one: heat_conduction(one[None], k)[0])(x.detach())
    torch.testing.assert_close(one_by_one, heat_conduction(x.detach(), k))
