"""Two linear layers with a GELU between, for training without keeping the GELU's output."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from . import private_torch
from .linear import as_rows, linear, linear_gelu, linear_in_training, product
from .overwrite import may_overwrite
from .plain import is_plain, needs_grad
from .precision import compute_dtype, without_autocast

__all__ = ['mlp']


def mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """Compute ``gelu(x @ weight1.T + bias1) @ weight2.T + bias2``.

    Args:
        x: Tensor of shape (..., C).
        weight1: Weight of shape (D, C).
        bias1: Bias of shape (D,).
        weight2: Weight of shape (C', D).
        bias2: Bias of shape (C',).

    Returns:
        Tensor of shape (..., C').
    """
    tensors = (x, weight1, bias1, weight2, bias2)
    # A compiler decides by itself what to recompute.
    if needs_grad(tensors) and private_torch.gelu_backward is not None and is_plain(tensors):
        hidden = linear(x, weight1, bias1)
        dtype = compute_dtype(hidden)
        with without_autocast(hidden.device.type):
            return _GeluLinear.apply(hidden, weight2.to(dtype), bias2.to(dtype))
    return linear(linear_gelu(x, weight1, bias1), weight2, bias2)


class _GeluLinear(torch.autograd.Function):
    """Linear layer on the GELU of its input; keeps the input alone.

    Its backward pass consists of differentiable operations, so it can be differentiated again.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Compute ``gelu(x) @ weight.T + bias``."""
        ctx.save_for_backward(x, weight)
        return linear_in_training(F.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the three."""
        x, weight = ctx.saved_tensors
        overwrite = may_overwrite((grad, x, weight))
        rows = as_rows(grad)
        grad_x = grad_weight = grad_bias = used_up = None
        if ctx.needs_input_grad[1]:
            activation = F.gelu(x)
            grad_weight = rows.T @ as_rows(activation)
            used_up = activation if overwrite else None
        if ctx.needs_input_grad[0]:
            grad_x = product(grad, weight, used_up)
            out = dict(grad_input=grad_x) if overwrite else {}
            grad_x = private_torch.gelu_backward(grad_x, x, **out)
        if ctx.needs_input_grad[2]:
            grad_bias = rows.sum(0)
        return grad_x, grad_weight, grad_bias
