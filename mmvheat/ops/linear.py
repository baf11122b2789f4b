"""Linear layers on channels-last maps, by the fastest primitive of each device.

On a CPU without gradients that is oneDNN's matrix product with bias and GELU fused in: it writes
its output once, where torch's linear fills it with the bias first and GELU makes another one.
``docs/benchmarks.md`` has the figures.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .plain import is_plain, needs_grad
from .precision import compute_dtype

__all__ = ['linear', 'linear_gelu']


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute ``x @ weight.T + bias``.

    Args:
        x: Tensor of shape (..., C).
        weight: Weight of shape (C', C).
        bias: Bias of shape (C',).

    Returns:
        Tensor of shape (..., C').
    """
    if _has_fused(x, weight, bias):
        return _fused(x, weight, bias, 'none', '')
    return F.linear(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute ``gelu(x @ weight.T + bias)``, GELU by the error function.

    Args:
        x: Tensor of shape (..., C).
        weight: Weight of shape (C', C).
        bias: Bias of shape (C',).

    Returns:
        Tensor of shape (..., C').
    """
    if _has_fused(x, weight, bias):
        return _fused(x, weight, bias, 'gelu', 'none')
    return F.gelu(F.linear(x, weight, bias))


def _has_fused(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether oneDNN's fused product computes the same here, and nobody needs its parts."""
    tensors = (x, weight, bias)
    if x.device.type != 'cpu' or needs_grad(tensors) or not is_plain(tensors):
        return False
    if not (torch.backends.mkldnn.enabled and hasattr(torch.ops.mkldnn, '_linear_pointwise')):
        return False
    # Without autocast, tensors of several dtypes are a mistake that torch reports.
    if not (torch.is_autocast_enabled('cpu') or x.dtype == weight.dtype == bias.dtype):
        return False
    dtype = compute_dtype(x)
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32


def _fused(x: Tensor, weight: Tensor, bias: Tensor, activation: str, variant: str) -> Tensor:
    dtype = compute_dtype(x)
    return torch.ops.mkldnn._linear_pointwise(
        x.to(dtype), weight.to(dtype), bias.to(dtype), activation, [], variant
    )
