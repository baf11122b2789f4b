"""Every function against mmcv's compiled one, recorded or installed, or against its definition."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from mmcv_ops import reference
from mmcv_ops.cases import CASES, ON_GPU_ONLY, compiled_module, run
from torch import Tensor

from mmvheat.mmcv_ops import ext

RECORDED = Path(__file__).parents[1] / 'data' / 'mmcv_ops.npz'
# What stores coordinates or statistics in tensors of the given type rounds them there.
KEEPS_FLOAT32 = ('roi_align-0', 'sync_bn')


class Through:
    """A module whose functions get changed tensors, and whose results are written back."""

    def __init__(self, module: ModuleType, change: Callable[[Tensor], Tensor]):
        self.module, self.change = module, change

    def __getattr__(self, name: str) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            sent = [self.change(arg) if isinstance(arg, Tensor) else arg for arg in args]
            result = getattr(self.module, name)(*sent, **kwargs)
            for ours, theirs in zip(args, sent, strict=True):
                if isinstance(ours, Tensor):
                    ours.copy_(theirs)
            return to_type(torch.float32)(result).cpu() if isinstance(result, Tensor) else result

        return call


def to_type(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor.clone()


def assert_same(found: list[np.ndarray], truth: list[np.ndarray], rtol: float, atol: float) -> None:
    assert [array.shape for array in found] == [array.shape for array in truth]
    for ours, theirs in zip(found, truth, strict=True):
        if theirs.dtype.kind == 'i':
            np.testing.assert_array_equal(ours, theirs)
        else:
            np.testing.assert_allclose(ours.astype(np.float32), theirs, rtol, atol)


@pytest.mark.parametrize('name', CASES)
def test_the_recorded_values_of_the_compiled_function(name):
    with np.load(RECORDED) as file:
        truth = [file[key] for key in file.files if key.rpartition('/')[0] == name]
    assert truth
    assert_same(run(name, ext), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(compiled_module() is None, reason='needs a compiled mmcv')
@pytest.mark.parametrize('name', CASES)
def test_the_compiled_function_on_other_inputs(name):
    compiled = compiled_module()
    for seed in range(1, 6):
        assert_same(run(name, ext, seed), run(name, compiled, seed), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', ON_GPU_ONLY)
def test_the_definition(name):
    assert_same(run(name, ext), run(name, reference), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    'name', [name for name in CASES | ON_GPU_ONLY if not name.startswith(KEEPS_FLOAT32)]
)
def test_low_precision_rounds_the_results_alone(name, dtype):
    """Nothing is computed in it: results are those of float32 on the rounded inputs, rounded."""
    narrow = run(name, Through(ext, to_type(dtype)))
    wide = run(name, Through(ext, lambda tensor: to_type(torch.float32)(to_type(dtype)(tensor))))
    # Sums over several rounded outputs, as gradients of a shared pixel, round more than once.
    step = torch.finfo(dtype).eps
    assert_same(narrow, wide, rtol=2 * step, atol=2 * step)


@pytest.mark.parametrize('name', CASES | ON_GPU_ONLY)
def test_autocast_changes_nothing(name):
    plain = run(name, ext)
    with torch.autocast('cpu', torch.bfloat16):
        assert_same(run(name, ext), plain, rtol=0, atol=0)


@pytest.mark.parametrize('name', CASES | ON_GPU_ONLY)
def test_strided_tensors(name):
    """Channels-last maps and other strides, of inputs and of outputs."""
    strided = Through(ext, lambda tensor: tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor)
    assert_same(run(name, strided), run(name, ext), rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize('name', CASES | ON_GPU_ONLY)
def test_a_gpu_gives_what_a_cpu_gives(name):
    if name.startswith(('softnms', 'nms_match')):
        pytest.skip('mmcv moves its inputs to the CPU')
    there = Through(ext, lambda tensor: tensor.cuda())
    assert_same(run(name, there), run(name, ext), rtol=1e-4, atol=1e-4)


def test_maxima_and_windows_are_gathered_in_chunks(monkeypatch):
    """However little is gathered at once."""
    names = [name for name in CASES | ON_GPU_ONLY if 'roi_' in name]
    whole = [run(name, ext) for name in names]
    monkeypatch.setattr('mmvheat.mmcv_ops.roi.CHUNK', 1)
    for name, truth in zip(names, whole, strict=True):
        assert_same(run(name, ext), truth, rtol=1e-5, atol=1e-5)
