"""Where torch lacks a private function, the plain path gives the same numbers."""

import importlib
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad

import mmvheat
from mmvheat.models import VHeat
from mmvheat.ops import dispatch as private_torch
from mmvheat.ops.dispatch import is_plain
from mmvheat.ops.kernels import kernels_enabled

linear_module = importlib.import_module('mmvheat.ops.fused')

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
    with torch.autocast('cpu', precision, enabled=precision is not None):
        with torch.no_grad():
            results = [model(x)[1]]
        results.append(model(x)[1])
    parameters = [p for n, p in model.named_parameters() if 'outnorm0' not in n]
    results += torch.autograd.grad(results[1].float().square().mean(), parameters)
    return [result.detach().float() for result in results]


@pytest.mark.parametrize('slow_mkl', [None, False, True])
@pytest.mark.parametrize('precision', [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize('missing', [*NAMES, '_current_level'])
def test_without_it_the_plain_path_gives_the_same(missing, precision, slow_mkl, monkeypatch):
    if slow_mkl is not None:
        monkeypatch.setattr(linear_module, 'mkl_is_slow', lambda: slow_mkl)
    arch = dict(depths=[1, 2], dims=8, post_norm=True, layer_scale_init_value=0.5)
    model = VHeat(arch, img_size=32, out_indices=(0, 1), drop_path_rate=0.0).eval()
    x = torch.randn(2, 3, 40, 32)
    expected = run(model, x, precision)
    if missing == '_current_level':
        monkeypatch.delattr(forward_ad, missing)
        assert not is_plain([x]) and not kernels_enabled('cpu')
    else:
        assert getattr(private_torch, missing) is not None, 'this torch has it'
        monkeypatch.setattr(private_torch, missing, None)
        assert is_plain([x]) == (missing != '_len_dispatch_stack')
    for result, wanted in zip(run(model, x, precision), expected, strict=True):
        atol = (1e-5 if precision is None else 0.05) * max(1, wanted.abs().max().item())
        torch.testing.assert_close(result, wanted, atol=atol, rtol=0)


def test_a_name_that_torch_lacks_is_none():
    assert private_torch._find('_C._len_torch_dispatch_stack') is not None
    assert private_torch._find('_C._no_such_function') is None
    assert private_torch._find('ops.mkldnn._no_such_product') is None
    assert private_torch._find('_no_such_module.function') is None


def test_what_the_compiler_is_told_may_be_missing(monkeypatch):
    images = torch.zeros(2, 3, 8, 8)
    private_torch.mark_batch_dynamic(images)
    assert images._dynamo_weak_dynamic_indices == {0}
    monkeypatch.setattr(private_torch, '_find', lambda path: None)
    other = torch.zeros(2, 3, 8, 8)
    private_torch.mark_batch_dynamic(other)
    assert not hasattr(other, '_dynamo_weak_dynamic_indices')


def test_a_compiled_module_is_known():
    model = torch.nn.Linear(1, 1)
    assert not private_torch.is_compiled(model)
    model.compile(backend='eager')
    assert private_torch.is_compiled(model)


def test_private_functions_are_asked_for_in_one_place():
    package = Path(mmvheat.__file__).parent
    private = ('torch._C', 'torch._dynamo', 'torch._inductor', 'ops.mkldnn', '_compiled_call_impl')
    for path in package.rglob('*.py'):
        if path.name != 'private_torch.py':
            assert not [name for name in private if name in path.read_text()], path
