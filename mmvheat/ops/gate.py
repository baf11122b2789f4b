"""The end of the operator: a LayerNorm, the gate, and the linear layer behind them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from . import private_torch
from .kernels import kernels_enabled, norm_gate
from .linear import as_rows, linear, linear_in_training, product
from .overwrite import may_overwrite, multiply
from .plain import is_plain, needs_grad
from .precision import compute_dtype, without_autocast

__all__ = ['gated_linear']


def gated_linear(
    u: Tensor,
    z: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    weight: Tensor,
    bias: Tensor,
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

    Returns:
        Map of shape (..., C').
    """
    if kernels_enabled(u.device) and u.dtype != torch.float64:
        return linear(norm_gate(u, z, norm_weight, norm_bias, eps), weight, bias)
    tensors = (u, z, norm_weight, norm_bias, weight, bias)
    plain = is_plain(tensors)
    # A compiler decides by itself what to recompute.
    if plain and needs_grad(tensors) and _has_backward():
        dtype = compute_dtype(u)
        with without_autocast(u.device.type):
            return _GatedLinear.apply(
                u, z, norm_weight, norm_bias, eps, weight.to(dtype), bias.to(dtype)
            )
    normed = F.layer_norm(u, norm_weight.shape, norm_weight, norm_bias, eps)
    gate = F.silu(z)
    gated = multiply(normed, gate, overwrite=plain)
    return linear(gated, weight, bias)


def _has_backward() -> bool:
    """Whether torch has the parts of the backward pass below."""
    parts = (
        private_torch.native_layer_norm,
        private_torch.native_layer_norm_backward,
        private_torch.silu_backward,
    )
    return None not in parts


class _GatedLinear(torch.autograd.Function):
    """The same with what it keeps chosen by hand.

    Its backward pass consists of differentiable operations, so it can be differentiated again.
    """

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
        normed = F.layer_norm(u.to(norm_weight), norm_weight.shape, norm_weight, norm_bias, eps)
        return linear_in_training(normed.mul_(F.silu(z)).to(weight), weight, bias)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Any, ...]:
        """Return the gradients of all but ``eps``."""
        u, z, norm_weight, norm_bias, weight = ctx.saved_tensors
        shape = norm_weight.shape
        wide = u.to(norm_weight)
        normed, mean, rstd = private_torch.native_layer_norm(
            wide, shape, norm_weight, norm_bias, ctx.eps
        )
        gate = F.silu(z)
        rows = as_rows(grad)
        gated = (normed * gate).to(weight)
        grad_weight = rows.T @ as_rows(gated)
        overwrite = may_overwrite((grad, u, z, weight))
        grad_gated = product(grad, weight, gated if overwrite else None)
        grad_z = _silu_backward(multiply(normed, grad_gated, overwrite).to(z), z)
        grad_u, grad_norm_weight, grad_norm_bias = private_torch.native_layer_norm_backward(
            multiply(gate.to(wide), grad_gated, overwrite),
            wide,
            shape,
            mean,
            rstd,
            norm_weight,
            norm_bias,
            [True, True, True],
        )
        return (
            grad_u.to(u),
            grad_z,
            grad_norm_weight,
            grad_norm_bias,
            None,
            grad_weight,
            rows.sum(0),
        )


def _silu_backward(grad: Tensor, z: Tensor) -> Tensor:
    # Torch's fused one cannot be differentiated again.
    if not torch.is_grad_enabled() and not private_torch.dual_level_is_open():
        return private_torch.silu_backward(grad, z)
    gate = torch.sigmoid(z)
    return grad * gate * (1 + z * (1 - gate))
