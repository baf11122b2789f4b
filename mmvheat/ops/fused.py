"""Linear layers, the MLP and the gated norm, each with what it saves for the backward pass.

On a CPU a linear layer without gradients is oneDNN's matrix product with bias and GELU fused in: it
writes its output once, where torch's linear fills it with the bias first and GELU makes another.
With gradients GELU stays apart, and torch's own backend is as fast on Intel CPUs.
``docs/benchmarks.md`` has the figures.

The autograd functions save few tensors and compute the rest again. Their backward passes consist of
differentiable operations, so they can be differentiated again.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from . import dispatch, kernels
from .dispatch import compute_dtype, is_plain, multiply, needs_grad, without_autocast

__all__ = ['gated_linear', 'has_fused_product', 'linear', 'mkl_is_slow', 'mlp', 'product']


def linear(x: Tensor, weight: Tensor, bias: Tensor, plain: bool | None = None) -> Tensor:
    """Compute ``x @ weight.T + bias``.

    Args:
        x: Tensor of shape (..., C).
        weight: Weight of shape (C', C).
        bias: Bias of shape (C',).
        plain: Whether all are ordinary tensors, if known, see :func:`.dispatch.is_plain`.

    Returns:
        Tensor of shape (..., C').
    """
    tensors = (x, weight, bias)
    if not has_fused_product(*tensors, plain):
        return F.linear(*tensors)
    recorded = needs_grad(tensors)
    if recorded and not mkl_is_slow():
        return F.linear(*tensors)
    dtype = compute_dtype(x)
    tensors = tuple(tensor.to(dtype) for tensor in tensors)
    return _Linear.apply(*tensors) if recorded else product(*tensors)


def mlp(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    plain: bool | None = None,
) -> Tensor:
    """Compute ``gelu(x @ weight1.T + bias1) @ weight2.T + bias2``, GELU by the error function.

    For the backward pass the output of the first layer is kept, GELU's is computed again.

    Args:
        x: Tensor of shape (..., C).
        weight1: Weight of shape (D, C).
        bias1: Bias of shape (D,).
        weight2: Weight of shape (C', D).
        bias2: Bias of shape (C',).
        plain: Whether all are ordinary tensors, if known, see :func:`.dispatch.is_plain`.

    Returns:
        Tensor of shape (..., C').
    """
    tensors = (x, weight1, bias1, weight2, bias2)
    plain = is_plain(tensors) if plain is None else plain
    first, last = (x, weight1, bias1), (weight2, bias2)
    if not needs_grad(tensors):
        if has_fused_product(*first, plain):
            dtype = compute_dtype(x)
            hidden = product(*(tensor.to(dtype) for tensor in first), 'gelu', 'none')
        else:
            hidden = F.gelu(linear(*first, plain))
        return linear(hidden, *last, plain)
    # A compiler decides by itself what to recompute.
    hidden = linear(*first, plain)
    if not plain or not dispatch.has_hand_written_backward():
        return linear(F.gelu(hidden), *last, plain)
    dtype = compute_dtype(hidden)
    with without_autocast(hidden.device.type):
        return _GeluLinear.apply(hidden, weight2.to(dtype), bias2.to(dtype))


def gated_linear(
    u: Tensor,
    z: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight: Tensor,
    bias: Tensor,
    plain: bool | None = None,
) -> Tensor:
    """Compute ``linear(layer_norm(u) * silu(z))`` (arXiv 2405.16555, Fig. 3).

    For the backward pass u and z are kept, all else is computed again.

    Args:
        u: Map of shape (..., C).
        z: Gate of shape (..., C).
        norm_weight: Weight of the norm, shape (C,).
        norm_bias: Its bias, shape (C,).
        eps: What the norm adds to the variance.
        weight: Weight of the linear layer, shape (C', C).
        bias: Its bias, shape (C',).
        plain: Whether all are ordinary tensors, if known, see :func:`.dispatch.is_plain`.

    Returns:
        Map of shape (..., C').
    """
    tensors = (u, z, norm_weight, norm_bias, weight, bias)
    if kernels.kernels_enabled(u.device) and u.dtype != torch.float64:
        return linear(kernels.norm_gate(u, z, norm_weight, norm_bias, eps), weight, bias, plain)
    plain = is_plain(tensors) if plain is None else plain
    # A compiler decides by itself what to recompute.
    if plain and needs_grad(tensors) and dispatch.has_hand_written_backward():
        dtype = compute_dtype(u)
        with without_autocast(u.device.type):
            return _GatedLinear.apply(
                u, z, norm_weight, norm_bias, eps, weight.to(dtype), bias.to(dtype)
            )
    normed = F.layer_norm(u, norm_weight.shape, norm_weight, norm_bias, eps)
    return linear(multiply(normed, F.silu(z), overwrite=plain), weight, bias, plain)


@cache
def mkl_is_slow() -> bool:
    """Whether the CPU is none of those that MKL, torch's library of products, is made for.

    On an AMD EPYC a prototype ran 1.5 times as fast with oneDNN's products as with MKL's.
    """
    try:
        return 'GenuineIntel' not in Path('/proc/cpuinfo').read_text()
    except OSError:
        return False


def has_fused_product(x: Tensor, weight: Tensor, bias: Tensor, plain: bool | None = None) -> bool:
    """Whether oneDNN's fused product computes the same here as torch's linear layer."""
    if x.device.type != 'cpu' or not (is_plain((x, weight, bias)) if plain is None else plain):
        return False
    if not torch.backends.mkldnn.enabled or dispatch.linear_pointwise is None:
        return False
    # Without autocast, tensors of several dtypes are a mistake that torch reports.
    if not (torch.is_autocast_enabled('cpu') or x.dtype == weight.dtype == bias.dtype):
        return False
    dtype = compute_dtype(x)
    if dtype == torch.bfloat16:
        supported = dispatch.bf16_is_supported
        return supported is not None and supported()
    return dtype == torch.float32


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = 'none', variant: str = ''
) -> Tensor:
    """Compute oneDNN's product, where :func:`has_fused_product` says that it fits.

    Args:
        x: Tensor of shape (..., C).
        weight: Weight of shape (C', C), of the same dtype.
        bias: Bias of shape (C',), of the same dtype, or None.
        activation: What is computed of each value while it is written: ``'none'``, ``'gelu'``
            (with the variant ``'none'``: by the error function) or ``'swish'``, which is SiLU.
        variant: Variant of the activation.

    Returns:
        Tensor of shape (..., C').
    """
    return dispatch.linear_pointwise(x, weight, bias, activation, [], variant)


def _linear_in_training(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute :func:`linear` inside an autograd function, where torch records nothing."""
    return linear(x, weight, bias, plain=True) if mkl_is_slow() else F.linear(x, weight, bias)


def _product(x: Tensor, weight: Tensor, plain: bool, memory: Tensor | None = None) -> Tensor:
    """Compute ``x @ weight``, as backward passes need it; differentiable itself.

    Args:
        x: Tensor of shape (..., C').
        weight: Weight of shape (C', C), of the same dtype.
        plain: Whether both are ordinary tensors.
        memory: Tensor like the result, which is overwritten where the result fits in it.

    Returns:
        Tensor of shape (..., C).
    """
    # In bfloat16 torch's product is oneDNN's, and writes to memory that is there.
    if (
        x.dtype == torch.float32
        and mkl_is_slow()
        and not needs_grad((x, weight))
        and has_fused_product(x, weight, weight, plain)
    ):
        return product(x, weight.T, None)
    if memory is None or not memory.is_contiguous():
        return x @ weight
    torch.mm(_as_rows(x), weight, out=_as_rows(memory))
    return memory


def _as_rows(x: Tensor) -> Tensor:
    """Reshape a map (..., C) to a matrix (N, C), which is a view if the map is contiguous.

    Not by ``flatten``: for that torch has no rule when gradients are batched.
    """
    return x.reshape(-1, x.size(-1))


class _Linear(torch.autograd.Function):
    """The fused product while gradients are recorded."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Compute ``x @ weight.T + bias``."""
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the three."""
        x, weight = ctx.saved_tensors
        rows = _as_rows(grad)
        needed = ctx.needs_input_grad
        return (
            _product(grad, weight, is_plain((grad, weight))) if needed[0] else None,
            rows.T @ _as_rows(x) if needed[1] else None,
            rows.sum(0) if needed[2] else None,
        )


class _GeluLinear(torch.autograd.Function):
    """Linear layer on the GELU of its input; keeps the input alone."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Compute ``gelu(x) @ weight.T + bias``."""
        ctx.save_for_backward(x, weight)
        return _linear_in_training(F.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the three."""
        x, weight = ctx.saved_tensors
        plain = is_plain((grad, x, weight))
        overwrite = plain and not torch.is_grad_enabled()
        rows = _as_rows(grad)
        grad_x = grad_weight = grad_bias = used_up = None
        if ctx.needs_input_grad[1]:
            activation = F.gelu(x)
            grad_weight = rows.T @ _as_rows(activation)
            used_up = activation if overwrite else None
        if ctx.needs_input_grad[0]:
            grad_x = _product(grad, weight, plain, used_up)
            out = dict(grad_input=grad_x) if overwrite else {}
            grad_x = dispatch.gelu_backward(grad_x, x, **out)
        if ctx.needs_input_grad[2]:
            grad_bias = rows.sum(0)
        return grad_x, grad_weight, grad_bias


class _GatedLinear(torch.autograd.Function):
    """LayerNorm, gate and linear layer; keeps the map and the gate."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        u: Tensor,
        z: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        eps: float,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        """Compute it; the norm in its parameters' precision, the product in the weight's."""
        ctx.save_for_backward(u, z, norm_weight, norm_bias, weight)
        ctx.eps = eps
        wide = _for_norm(u, norm_weight)
        normed = F.layer_norm(wide, norm_weight.shape, norm_weight, norm_bias, eps)
        return _linear_in_training(normed.mul_(F.silu(z)).to(weight), weight, bias)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Any, ...]:
        """Return the gradients of all but ``eps``."""
        u, z, norm_weight, norm_bias, weight = ctx.saved_tensors
        shape = norm_weight.shape
        wide = _for_norm(u, norm_weight)
        normed, mean, rstd = dispatch.native_layer_norm(
            wide, shape, norm_weight, norm_bias, ctx.eps
        )
        gate = F.silu(z)
        rows = _as_rows(grad)
        gated = (normed * gate).to(weight)
        grad_weight = rows.T @ _as_rows(gated)
        plain = is_plain((grad, u, z, weight))
        overwrite = plain and not torch.is_grad_enabled()
        grad_gated = _product(grad, weight, plain, gated if overwrite else None)
        grad_z = _silu_backward(multiply(normed, grad_gated, overwrite).to(z), z)
        grad_u, grad_norm_weight, grad_norm_bias = dispatch.native_layer_norm_backward(
            multiply(gate.to(wide), grad_gated, overwrite),
            wide,
            shape,
            mean,
            rstd,
            norm_weight,
            norm_bias,
            [True, True, True],
        )
        grads = grad_u.to(u), grad_z, grad_norm_weight, grad_norm_bias
        return *grads, None, grad_weight, rows.sum(0)


def _for_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Cast what is to be normalised, where the norm does not take both dtypes as a CPU's does."""
    dtypes = x.dtype, weight.dtype
    is_taken = x.device.type == 'cpu' and dtypes == (torch.bfloat16, torch.float32)
    return x if is_taken else x.to(weight)


def _silu_backward(grad: Tensor, z: Tensor) -> Tensor:
    # Torch's fused one cannot be differentiated again.
    if not torch.is_grad_enabled() and not dispatch.dual_level_is_open():
        return dispatch.silu_backward(grad, z)
    gate = torch.sigmoid(z)
    return grad * gate * (1 + z * (1 - gate))
