"""LayerNorm and gate in one pass over the map, forward and backward."""

from typing import Any

import torch
from torch import Tensor

from .optional_triton import HAS_TRITON, constexpr, jit, next_power_of_2, tl, triton

__all__ = ['norm_gate']

# Tokens of one program in the backward pass, which adds up their gradients of weight and bias.
_TOKENS = 64


@jit
def _forward(
    u_ptr,
    z_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    channels,
    stride_u,
    stride_z,
    eps,
    CHANNELS: constexpr,
):
    """One token; statistics in float32."""
    token = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, CHANNELS)
    inside = c < channels
    u = tl.load(u_ptr + token * stride_u + c, mask=inside, other=0.0).to(tl.float32)
    z = tl.load(z_ptr + token * stride_z + c, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + c, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + c, mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, u - tl.sum(u, 0) / channels, 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / channels + eps)
    gated = (centred * rstd * weight + bias) * z * tl.sigmoid(z)
    tl.store(out_ptr + token * channels + c, gated, mask=inside)


@jit
def _backward_kernel(
    grad_ptr,
    u_ptr,
    z_ptr,
    weight_ptr,
    bias_ptr,
    grad_u_ptr,
    grad_z_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    tokens,
    channels,
    stride_u,
    stride_z,
    eps,
    TOKENS: constexpr,
    CHANNELS: constexpr,
):
    """Some tokens, one after the other; a row of partial sums for weight and bias."""
    program = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, CHANNELS)
    inside = c < channels
    weight = tl.load(weight_ptr + c, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + c, mask=inside, other=0.0).to(tl.float32)
    grad_weight = tl.zeros((CHANNELS,), tl.float32)
    grad_bias = tl.zeros((CHANNELS,), tl.float32)
    for i in range(TOKENS):
        token = program * TOKENS + i
        # Not `inside & ...`, which Triton 3.9 interprets as an integer.
        here = c < tl.where(token < tokens, channels, 0)
        grad = tl.load(grad_ptr + token * channels + c, mask=here, other=0.0).to(tl.float32)
        u = tl.load(u_ptr + token * stride_u + c, mask=here, other=0.0).to(tl.float32)
        z = tl.load(z_ptr + token * stride_z + c, mask=here, other=0.0).to(tl.float32)
        centred = tl.where(here, u - tl.sum(u, 0) / channels, 0.0)
        rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / channels + eps)
        hat = centred * rstd
        gate = tl.sigmoid(z)
        grad_z = grad * (hat * weight + bias) * gate * (1.0 + z * (1.0 - gate))
        grad_normed = grad * z * gate
        grad_weight += grad_normed * hat
        grad_bias += grad_normed
        grad_hat = grad_normed * weight
        mean = tl.sum(grad_hat, 0) / channels
        slope = tl.sum(grad_hat * hat, 0) / channels
        grad_u = rstd * (grad_hat - mean - hat * slope)
        tl.store(grad_u_ptr + token * channels + c, grad_u, mask=here)
        tl.store(grad_z_ptr + token * channels + c, grad_z, mask=here)
    tl.store(grad_weight_ptr + program * channels + c, grad_weight, mask=inside)
    tl.store(grad_bias_ptr + program * channels + c, grad_bias, mask=inside)


def _tokens(x: Tensor) -> Tensor:
    """View a map (..., C) as tokens (N, C) with channels side by side, or copy it."""
    try:
        x = x.view(-1, x.size(-1))
    except RuntimeError:  # no single stride leads from token to token
        x = x.reshape(-1, x.size(-1))
    return x if x.stride(1) == 1 else x.contiguous()


@torch.library.custom_op('mmvheat::norm_gate', mutates_args=())
def norm_gate(u: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Compute ``layer_norm(u) * silu(z)`` by one fused kernel.

    Args:
        u: Map of shape (..., C) on a device with Triton; half of the channels of a map is read in
            place.
        z: Gate of the same shape.
        weight: Weight of the norm, shape (C,).
        bias: Its bias, shape (C,).
        eps: What the norm adds to the variance.

    Returns:
        Map of shape (..., C), contiguous, of ``u``'s dtype.

    Raises:
        ValueError: If the shapes do not fit each other, or Triton is missing.
    """
    if u.shape != z.shape or weight.shape != u.shape[-1:] or bias.shape != u.shape[-1:]:
        raise ValueError(
            'norm_gate wants u and z (..., C) and weight and bias (C,), got '
            f'{", ".join(str(tuple(t.shape)) for t in (u, z, weight, bias))}'
        )
    if not HAS_TRITON:
        raise ValueError('norm_gate needs Triton, which is not installed')
    out = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    if out.numel():
        rows_u, rows_z, channels = _tokens(u), _tokens(z), u.size(-1)
        # Triton launches on the current GPU, wherever the tensors are.
        with torch.cuda.device_of(u):
            _forward[(rows_u.size(0),)](
                rows_u,
                rows_z,
                weight.contiguous(),
                bias.contiguous(),
                out,
                channels,
                rows_u.stride(0),
                rows_z.stride(0),
                eps,
                CHANNELS=next_power_of_2(channels),
            )
    return out


@norm_gate.register_fake
def _(u: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return u.new_empty(u.shape)


@torch.library.custom_op('mmvheat::norm_gate_backward', mutates_args=())
def _norm_gate_backward(
    grad: Tensor, u: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, z, weight and bias; the norm is computed again."""
    channels = u.size(-1)
    grads = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (u, z)]
    rows_u, rows_z, rows_grad = _tokens(u), _tokens(z), _tokens(grad.contiguous())
    programs = triton.cdiv(rows_u.size(0), _TOKENS)
    # Sums of programs, added up by torch: the same in every run, unlike atomic additions.
    shape = programs, channels
    sums = [torch.zeros(shape, dtype=torch.float32, device=u.device) for _ in range(2)]
    if programs:
        with torch.cuda.device_of(u):
            _backward_kernel[(programs,)](
                rows_grad,
                rows_u,
                rows_z,
                weight.contiguous(),
                bias.contiguous(),
                grads[0],
                grads[1],
                sums[0],
                sums[1],
                rows_u.size(0),
                channels,
                rows_u.stride(0),
                rows_z.stride(0),
                eps,
                TOKENS=_TOKENS,
                CHANNELS=next_power_of_2(channels),
            )
    grads += [sums[0].sum(0).to(weight.dtype), sums[1].sum(0).to(bias.dtype)]
    return tuple(grads)


@_norm_gate_backward.register_fake
def _(
    grad: Tensor, u: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in (u, z, weight, bias))


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_norm_gate_backward(grad, *ctx.saved_tensors, ctx.eps), None)


norm_gate.register_autograd(_backward, setup_context=_save)
