"""Linear layers on channels-last maps, by the fastest primitive of each device.

On a CPU that is oneDNN's matrix product with bias and GELU fused in: it writes its output once,
where torch's linear fills it with the bias first and GELU makes another one. Where gradients are
recorded GELU stays apart, and on Intel's CPUs torch's linear is as fast. ``docs/benchmarks.md`` has
the figures.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from . import private_torch
from .plain import is_plain, needs_grad
from .precision import compute_dtype

__all__ = ['as_rows', 'linear', 'linear_gelu', 'linear_in_training', 'mkl_is_slow', 'product']


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute ``x @ weight.T + bias``.

    Args:
        x: Tensor of shape (..., C).
        weight: Weight of shape (C', C).
        bias: Bias of shape (C',).

    Returns:
        Tensor of shape (..., C').
    """
    tensors = (x, weight, bias)
    if not _has_fused(*tensors):
        return F.linear(*tensors)
    recorded = needs_grad(tensors)
    if recorded and not mkl_is_slow():
        return F.linear(*tensors)
    dtype = compute_dtype(x)
    tensors = tuple(tensor.to(dtype) for tensor in tensors)
    return _FusedLinear.apply(*tensors) if recorded else _fused(*tensors)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute ``gelu(x @ weight.T + bias)``, GELU by the error function.

    Args:
        x: Tensor of shape (..., C).
        weight: Weight of shape (C', C).
        bias: Bias of shape (C',).

    Returns:
        Tensor of shape (..., C').
    """
    tensors = (x, weight, bias)
    if needs_grad(tensors) or not _has_fused(*tensors):
        return F.gelu(linear(*tensors))
    dtype = compute_dtype(x)
    return _fused(*(tensor.to(dtype) for tensor in tensors), 'gelu', 'none')


def linear_in_training(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute :func:`linear` inside an autograd function, where torch records nothing."""
    return linear(x, weight, bias) if mkl_is_slow() else F.linear(x, weight, bias)


def product(x: Tensor, weight: Tensor, memory: Tensor | None = None) -> Tensor:
    """Compute ``x @ weight``, as backward passes need it; differentiable itself.

    Args:
        x: Tensor of shape (..., C').
        weight: Weight of shape (C', C), of the same dtype.
        memory: Tensor like the result, which is written over where the result fits in it.

    Returns:
        Tensor of shape (..., C).
    """
    if not needs_grad((x, weight)) and mkl_is_slow() and _has_fused(x, weight, weight):
        return _fused(x, weight.T, None)
    if memory is None or not memory.is_contiguous():
        return x @ weight
    torch.mm(as_rows(x), weight, out=as_rows(memory))
    return memory


def as_rows(x: Tensor) -> Tensor:
    """Reshape a map (..., C) to a matrix (N, C), which is a view if the map is contiguous.

    Not by ``flatten``: for that torch has no rule when gradients are batched.
    """
    return x.reshape(-1, x.size(-1))


class _FusedLinear(torch.autograd.Function):
    """The fused product while gradients are recorded.

    Its backward pass consists of differentiable operations, so it can be differentiated again.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Compute ``x @ weight.T + bias``."""
        ctx.save_for_backward(x, weight)
        return _fused(x, weight, bias)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the three."""
        x, weight = ctx.saved_tensors
        rows = as_rows(grad)
        needed = ctx.needs_input_grad
        return (
            product(grad, weight) if needed[0] else None,
            rows.T @ as_rows(x) if needed[1] else None,
            rows.sum(0) if needed[2] else None,
        )


@cache
def mkl_is_slow() -> bool:
    """Whether the CPU is none of those that MKL, torch's library of products, is made for.

    On an AMD EPYC a prototype ran 1.5 times as fast with oneDNN's products as with MKL's.
    """
    try:
        return 'GenuineIntel' not in Path('/proc/cpuinfo').read_text()
    except OSError:
        return False


def _has_fused(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether oneDNN's fused product computes the same here."""
    tensors = (x, weight, bias)
    if x.device.type != 'cpu' or not is_plain(tensors):
        return False
    if not torch.backends.mkldnn.enabled or private_torch.linear_pointwise is None:
        return False
    # Without autocast, tensors of several dtypes are a mistake that torch reports.
    if not (torch.is_autocast_enabled('cpu') or x.dtype == weight.dtype == bias.dtype):
        return False
    dtype = compute_dtype(x)
    if dtype == torch.bfloat16:
        supported = private_torch.bf16_is_supported
        return supported is not None and supported()
    return dtype == torch.float32


def _fused(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = 'none', variant: str = ''
) -> Tensor:
    return private_torch.linear_pointwise(x, weight, bias, activation, [], variant)
