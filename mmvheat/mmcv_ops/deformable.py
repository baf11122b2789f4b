"""Deformable convolution (torchvision's) and multi-scale deformable attention (grid sampling).

Dai et al., "Deformable Convolutional Networks", ICCV 2017; Zhu et al., "Deformable ConvNets v2",
CVPR 2019; Zhu et al., "Deformable DETR", ICLR 2021. Names of arguments are mmcv's; buffers that
only its kernels need (``columns``, ``ones``, ``im2col_step``) are ignored.
"""

import torch
import torch.nn.functional as F
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

from .precision import wide

__all__ = [
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'deform_conv_forward',
    'modulated_deform_conv_backward',
    'modulated_deform_conv_forward',
    'ms_deform_attn_backward',
    'ms_deform_attn_forward',
]


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution without a mask and a bias.

    Args:
        input: (N, C, H, W).
        weight: (C_out, C / group, kH, kW).
        offset: (N, deformable_group * kH * kW * 2, H_out, W_out): y and x of each tap, in pixels.
        output: Written (N, C_out, H_out, W_out).
        columns: Ignored.
        ones: Ignored.
        kW: Width of the kernel.
        kH: Height of the kernel.
        dW: Stride across.
        dH: Stride down.
        padW: Padding across.
        padH: Padding down.
        dilationW: Dilation across.
        dilationH: Dilation down.
        group: Groups of the convolution.
        deformable_group: Groups of channels with their own offsets.
        im2col_step: Ignored.
    """
    steps = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(_convolve(input, weight, offset, None, None, steps))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Gradients of input and offset, written to ``gradInput`` and ``gradOffset``."""
    steps = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grads = _gradients(gradOutput, input, weight, offset, None, None, steps)
    gradInput.copy_(grads[0])
    gradOffset.copy_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Gradient of the weights, ``scale`` times, added to ``gradWeight``.

    mmcv asks for it apart from the other gradients, so those are computed twice.
    """
    steps = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grads = _gradients(gradOutput, input, gradWeight, offset, None, None, steps)
    gradWeight.add_(grads[1].to(gradWeight.dtype), alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Deformable convolution whose taps are weighted by a mask.

    Args:
        input: (N, C, H, W).
        weight: (C_out, C / group, kernel_h, kernel_w).
        bias: (C_out,), used where ``with_bias``.
        ones: Ignored.
        offset: (N, deformable_group * kernel_h * kernel_w * 2, H_out, W_out), y before x. Of a
            larger map, as mmdet's DyHead gives it, the first numbers are read as one of this size.
        mask: (N, deformable_group * kernel_h * kernel_w, H_out, W_out).
        output: Written (N, C_out, H_out, W_out).
        columns: Ignored.
        kernel_h: Height of the kernel.
        kernel_w: Width of the kernel.
        stride_h: Stride down.
        stride_w: Stride across.
        pad_h: Padding down.
        pad_w: Padding across.
        dilation_h: Dilation down.
        dilation_w: Dilation across.
        group: Groups of the convolution.
        deformable_group: Groups of channels with their own offsets.
        with_bias: Whether the bias is added.
    """
    steps = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    offset, mask = (_as_read(given, output) for given in (offset, mask))
    output.copy_(_convolve(input, weight, offset, mask, bias if with_bias else None, steps))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Gradients of all inputs, written to the tensors named ``grad_...``; see the forward pass."""
    steps = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    offset, mask = (_as_read(given, grad_output) for given in (offset, mask))
    grads = _gradients(grad_output, input, weight, offset, mask, bias if with_bias else None, steps)
    for target, grad in zip((grad_input, grad_weight), grads[:2], strict=True):
        target.copy_(grad)
    for target, grad in zip((grad_offset, grad_mask), grads[2:4], strict=True):
        rest = target.flatten(1).size(1) - grad.flatten(1).size(1)
        target.copy_(F.pad(grad.flatten(1), (0, rest)).view(target.shape))
    if with_bias:
        grad_bias.copy_(grads[4])


def _as_read(given: Tensor, output: Tensor) -> Tensor:
    """Offsets or masks in the size of the output, the numbers of a larger map in their order."""
    shape = torch.Size((*given.shape[:2], *output.shape[2:]))
    return given.flatten(1)[:, : shape[1:].numel()].reshape(shape)


def _arguments(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> list[Tensor]:
    """Tensors as torchvision takes them: wide, with placeholders for what is missing."""
    if mask is None:
        mask = input.new_zeros((input.size(0), 1))
    if bias is None:
        bias = input.new_zeros(weight.size(0))
    return [wide(tensor) for tensor in (input, weight, offset, mask, bias)]


def _convolve(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    steps: tuple[int, ...],
) -> Tensor:
    arguments = _arguments(input, weight, offset, mask, bias)
    return torch.ops.torchvision.deform_conv2d(*arguments, *steps, mask is not None)


def _gradients(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    steps: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Gradients of input, weight, offset, mask and bias."""
    arguments = _arguments(input, weight, offset, mask, bias)
    # On torch 2.15 autocast reaches the products inside, on a CPU.
    with torch.autocast(input.device.type, enabled=False):
        return torch.ops.torchvision._deform_conv2d_backward(
            wide(grad_output), *arguments, *steps, mask is not None
        )


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Weighted sum of samples of several maps.

    Args:
        value: All maps, flat (B, sum of H * W, heads, D).
        value_spatial_shapes: Height and width of each map (L, 2).
        value_level_start_index: First row of each map (L,).
        sampling_locations: Points (B, Q, heads, L, P, 2), x before y, 0 to 1 across a map.
        attention_weights: (B, Q, heads, L, P).
        im2col_step: Ignored.

    Returns:
        (B, Q, heads * D).
    """
    return _attend(value, value_spatial_shapes, sampling_locations, attention_weights).to(
        value.dtype
    )


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Gradients, written to the tensors named ``grad_...``; see the forward pass."""
    leaves = [
        wide(t).detach().requires_grad_() for t in (value, sampling_locations, attention_weights)
    ]
    with torch.enable_grad():
        output = _attend(leaves[0], value_spatial_shapes, *leaves[1:])
    grads = torch.autograd.grad(output, leaves, wide(grad_output))
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        target.copy_(grad)


def _attend(value: Tensor, shapes: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    value, points, weights = wide(value), wide(points), wide(weights)
    batch, _, heads, width = value.shape
    queries, levels, samples = points.size(1), points.size(3), points.size(4)
    sizes = shapes.tolist()
    # Heads join the batch: (B * heads, D, H, W) and (B * heads, Q, P, 2), from -1 to 1.
    maps = value.permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in sizes], dim=2)
    grids = (2 * points - 1).transpose(1, 2).flatten(0, 1)
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, queries, levels, samples)
    total = value.new_zeros(batch * heads, width, queries)
    for level, (height, broad) in enumerate(sizes):
        sampled = F.grid_sample(
            maps[level].unflatten(2, (height, broad)), grids[:, :, level], align_corners=False
        )
        total = total + (sampled * weights[:, :, :, level]).sum(dim=-1)
    return total.view(batch, heads * width, queries).transpose(1, 2).contiguous()
