"""Where torch lacks a private function, the plain path gives the same numbers."""

import copy
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad

import mmvheat
from mmvheat.layers import HeatBlock, derived_cache
from mmvheat.models import VHeat, vheat
from mmvheat.ops import dispatch, fused, heat, tensor_cache
from mmvheat.ops.dispatch import is_plain
from mmvheat.ops.kernels import kernels_enabled

NAMES = [
    '_len_dispatch_stack',
    'linear_pointwise',
    'bf16_is_supported',
    'gelu_backward',
    'silu_backward',
    'native_layer_norm',
    'native_layer_norm_backward',
]


def run(model: VHeat, x: torch.Tensor, precision: torch.dtype | None) -> list[torch.Tensor]:
    """Inference, training, and the gradients of all parameters."""
    results = []
    # Each in an autocast of its own: torch 2.6 keeps what it cast without gradients.
    for grad in (False, True):
        enabled = precision is not None
        with torch.autocast('cpu', precision, enabled=enabled), torch.set_grad_enabled(grad):
            results.append(model(x)[1])
    parameters = [p for n, p in model.named_parameters() if 'outnorm0' not in n]
    results += torch.autograd.grad(results[1].float().square().mean(), parameters)
    return [result.detach().float() for result in results]


@pytest.mark.parametrize('slow_mkl', [None, False, True])
@pytest.mark.parametrize('precision', [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize('missing', [*NAMES, '_current_level'])
def test_without_it_the_plain_path_gives_the_same(missing, precision, slow_mkl, monkeypatch):
    if slow_mkl is not None:
        monkeypatch.setattr(fused, 'mkl_is_slow', lambda: slow_mkl)
    arch = dict(depths=[1, 2], dims=8, post_norm=True, layer_scale_init_value=0.5)
    model = VHeat(arch, img_size=32, out_indices=(0, 1), drop_path_rate=0.0).eval()
    x = torch.randn(2, 3, 40, 32)
    expected = run(model, x, precision)
    if missing == '_current_level':
        monkeypatch.delattr(forward_ad, missing)
        assert not is_plain([x]) and not kernels_enabled('cpu')
    else:
        assert getattr(dispatch, missing) is not None, 'this torch has it'
        monkeypatch.setattr(dispatch, missing, None)
        assert is_plain([x]) == (missing != '_len_dispatch_stack')
    for result, wanted in zip(run(model, x, precision), expected, strict=True):
        atol = (1e-5 if precision is None else 0.05) * max(1, wanted.abs().max().item())
        torch.testing.assert_close(result, wanted, atol=atol, rtol=0)


def test_a_name_that_torch_lacks_is_none():
    assert dispatch._find('_C._len_torch_dispatch_stack') is not None
    assert dispatch._find('_C._no_such_function') is None
    assert dispatch._find('ops.mkldnn._no_such_product') is None
    assert dispatch._find('_no_such_module.function') is None


def test_what_the_compiler_is_told_may_be_missing(monkeypatch):
    images = torch.zeros(2, 3, 8, 8)
    dispatch.mark_batch_dynamic(images)
    assert images._dynamo_weak_dynamic_indices == {0}
    monkeypatch.setattr(dispatch, '_find', lambda path: None)
    other = torch.zeros(2, 3, 8, 8)
    dispatch.mark_batch_dynamic(other)
    assert not hasattr(other, '_dynamo_weak_dynamic_indices')


def test_a_compiled_module_is_known():
    model = torch.nn.Linear(1, 1)
    assert not dispatch.is_compiled(model)
    model.compile(backend='eager')
    assert dispatch.is_compiled(model)


def test_private_functions_are_asked_for_in_one_place():
    package = Path(mmvheat.__file__).parent
    private = ('torch._C', 'torch._dynamo', 'torch._inductor', 'ops.mkldnn', '_compiled_call_impl')
    for path in package.rglob('*.py'):
        if path.name != 'dispatch.py':
            assert not [name for name in private if name in path.read_text()], path


BLOCK = HeatBlock(6, post_norm=True, layer_scale_init_value=0.5)


@pytest.mark.parametrize('name', dict(BLOCK.named_parameters()))
def test_one_weight_that_is_not_plain_shows_in_the_whole_block(name):
    """A block decides once for all its functions, so it must see every weight."""
    block = copy.deepcopy(BLOCK).eval()
    x, freq_embed = torch.randn(2, 5, 7, 6), torch.rand(5, 7, 6)
    weight = dict(block.named_parameters())[name].detach()
    others = [weight, weight + 1]

    def run(weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(block, {name: weight}, (x, freq_embed))

    with torch.no_grad():
        at_once = torch.vmap(run)(torch.stack(others))
        torch.testing.assert_close(at_once, torch.stack([run(one) for one in others]))


@pytest.mark.parametrize('training', [False, True])
def test_a_forward_pass_decides_once_a_block(training, monkeypatch):
    model = VHeat(dict(depths=[1, 2], dims=8), img_size=32, out_indices=1).train(training)
    x, asked, is_plain = torch.randn(2, 3, 32, 32), [], dispatch.is_plain
    with torch.set_grad_enabled(training):
        model(x)  # Constants are made and kept.
        for module in (dispatch, fused, heat, tensor_cache, vheat, derived_cache):
            monkeypatch.setattr(module, 'is_plain', lambda t: asked.append(1) or is_plain(t))
        model(x)
    # Beside the three blocks, inference asks for the image and for the weights of its cache.
    assert len(asked) == (3 if training else 5)
