"""Heat conduction on the chip: products, decay and products back, with float32 accumulation.

Small maps (up to 32 x 32) stay on the chip from the first product to the last, a few channels at a
time: each input is read once and each output written once. On larger ones one axis is fused (there,
decayed and back) between two matrix products of torch's along the other.
"""

from typing import Any

import torch
from torch import Tensor

from ..dct import analysis_basis, synthesis_basis, transform2d
from .optional_triton import HAS_TRITON, INTERPRETED, constexpr, jit, next_power_of_2, tl, triton

__all__ = ['columns_launch', 'fits_kernels', 'heat_conduct', 'padded_side', 'whole_map_launch']

# Sides, rounded up to powers of two, of the maps that stay on the chip, and of the fused axis: more
# would spill the registers of a GPU of compute capability 9.0, by the compiler's report.
_LARGEST_MAP = 32
_LARGEST_AXIS = 128


def fits_kernels(x: Tensor) -> bool:
    """Whether the kernels are meant for a map (B, H, W, C): half precision, columns not too long.

    They compute float32 too, for tests: exact products there do not use the tensor cores.
    """
    return HAS_TRITON and x.dtype in (torch.float16, torch.bfloat16) and _is_possible(x)


def _is_possible(x: Tensor) -> bool:
    return x.size(1) <= _LARGEST_AXIS and x.numel() > 0


@jit
def _dot(a, b, PRECISION: constexpr, WIDEN: constexpr):
    """Product with float32 accumulation; Triton's interpreter cannot multiply bfloat16."""
    if WIDEN:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision=PRECISION)
    return tl.dot(a, b, input_precision=PRECISION)


@jit
def _whole_map(
    x_ptr,
    decay_ptr,
    there_h_ptr,
    there_w_ptr,
    back_h_ptr,
    back_w_ptr,
    out_ptr,
    height,
    width,
    channels,
    stride_b,
    stride_h,
    stride_w,
    HEIGHT: constexpr,
    WIDTH: constexpr,
    CHANNELS: constexpr,
    PRECISION: constexpr,
    WIDEN: constexpr,
):
    """Conduct a few channels of one map; HEIGHT and WIDTH are the padded sides."""
    image = tl.program_id(0).to(tl.int64)
    h = tl.arange(0, HEIGHT)
    w = tl.arange(0, WIDTH)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside_hw = (h[:, None, None] < height) & (w[None, :, None] < width)
    inside = inside_hw & (c[None, None, :] < channels)
    offsets = h[:, None, None] * stride_h + w[None, :, None] * stride_w + c[None, None, :]
    x = tl.load(x_ptr + image * stride_b + offsets, mask=inside, other=0.0)
    dtype = x.dtype

    square_h = h[:, None] * height + h[None, :]
    inside_h = (h[:, None] < height) & (h[None, :] < height)
    square_w = w[:, None] * width + w[None, :]
    inside_w = (w[:, None] < width) & (w[None, :] < width)
    there_h = tl.load(there_h_ptr + square_h, mask=inside_h, other=0.0)
    there_w = tl.load(there_w_ptr + square_w, mask=inside_w, other=0.0)
    back_w = tl.load(back_w_ptr + square_w, mask=inside_w, other=0.0)
    back_h = tl.load(back_h_ptr + square_h, mask=inside_h, other=0.0)

    y = tl.reshape(x, (HEIGHT, WIDTH * CHANNELS))
    y = _dot(there_h, y, PRECISION, WIDEN)
    y = tl.permute(tl.reshape(y, (HEIGHT, WIDTH, CHANNELS)), (1, 0, 2))
    # Rounded after it is permuted: Triton 3.6 fails to compile the other order.
    y = tl.reshape(y, (WIDTH, HEIGHT * CHANNELS)).to(dtype)
    y = _dot(there_w, y, PRECISION, WIDEN)
    # Here an axis of frequencies along the width, then one along the height.
    decay_offsets = (h[None, :, None] * width + w[:, None, None]) * channels + c[None, None, :]
    decay_inside = (h[None, :, None] < height) & (w[:, None, None] < width)
    decay_inside = decay_inside & (c[None, None, :] < channels)
    decay = tl.load(decay_ptr + decay_offsets, mask=decay_inside, other=0.0)
    y = tl.reshape(y, (WIDTH, HEIGHT, CHANNELS)) * decay.to(tl.float32)
    y = tl.reshape(y, (WIDTH, HEIGHT * CHANNELS)).to(dtype)
    y = _dot(back_w, y, PRECISION, WIDEN)
    y = tl.permute(tl.reshape(y, (WIDTH, HEIGHT, CHANNELS)), (1, 0, 2))
    y = tl.reshape(y, (HEIGHT, WIDTH * CHANNELS)).to(dtype)
    y = _dot(back_h, y, PRECISION, WIDEN)
    y = tl.reshape(y, (HEIGHT, WIDTH, CHANNELS)).to(dtype)

    out_offsets = (h[:, None, None] * width + w[None, :, None]) * channels + c[None, None, :]
    size = height * width * channels
    tl.store(out_ptr + image * size + out_offsets, y, mask=inside)


@jit
def _columns(
    y_ptr,
    decay_ptr,
    there_ptr,
    back_ptr,
    height,
    columns,
    HEIGHT: constexpr,
    COLUMNS: constexpr,
    PRECISION: constexpr,
    WIDEN: constexpr,
):
    """Transform columns of (H, W * C), multiply by the decay and transform back, in place."""
    image = tl.program_id(0).to(tl.int64)
    h = tl.arange(0, HEIGHT)
    j = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (h[:, None] < height) & (j[None, :] < columns)
    offsets = h[:, None] * columns + j[None, :]
    start = y_ptr + image * height * columns
    y = tl.load(start + offsets, mask=inside, other=0.0)
    dtype = y.dtype
    square = h[:, None] * height + h[None, :]
    inside_square = (h[:, None] < height) & (h[None, :] < height)
    there = tl.load(there_ptr + square, mask=inside_square, other=0.0)
    back = tl.load(back_ptr + square, mask=inside_square, other=0.0)
    decay = tl.load(decay_ptr + offsets, mask=inside, other=0.0)
    y = _dot(there, y, PRECISION, WIDEN) * decay.to(tl.float32)
    y = _dot(back, y.to(dtype), PRECISION, WIDEN)
    tl.store(start + offsets, y.to(dtype), mask=inside)


def padded_side(side: int) -> int:
    """The power of two that a side is padded to; the tensor cores take no less than 16."""
    return max(16, next_power_of_2(side))


def whole_map_launch(padded_height: int, padded_width: int) -> tuple[int, int]:
    """Channels and warps of a program: as many as leave its sums within the registers."""
    return (32, 4) if padded_height * padded_width <= 16 * 16 else (16, 8)


def columns_launch(padded_height: int) -> tuple[int, int]:
    """Columns and warps of a program."""
    return 64, (4 if padded_height <= 64 else 8)


def _launch(x: Tensor, decay: Tensor, there: tuple[Tensor, Tensor], back: tuple) -> Tensor:
    """Compute ``back(decay * there(x))``, each a matrix for the height and one for the width."""
    batch, height, width, channels = x.shape
    padded_h, padded_w = padded_side(height), padded_side(width)
    # float32 products of tensor cores would keep 10 bits.
    precision = 'ieee' if x.dtype == torch.float32 else 'tf32'
    there, back = ([matrix.contiguous() for matrix in pair] for pair in (there, back))
    decay = decay.contiguous()
    if padded_h <= _LARGEST_MAP and padded_w <= _LARGEST_MAP:
        if x.stride(3) != 1:
            x = x.contiguous()
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        block, warps = whole_map_launch(padded_h, padded_w)
        grid = (batch, triton.cdiv(channels, block))
        _whole_map[grid](
            x,
            decay,
            there[0],
            there[1],
            back[0],
            back[1],
            out,
            height,
            width,
            channels,
            x.stride(0),
            x.stride(1),
            x.stride(2),
            HEIGHT=padded_h,
            WIDTH=padded_w,
            CHANNELS=block,
            PRECISION=precision,
            WIDEN=INTERPRETED,
            num_warps=warps,
        )
        return out
    y = _along_width(there[1], x)
    columns = width * channels
    block, warps = columns_launch(padded_h)
    _columns[(batch, triton.cdiv(columns, block))](
        y,
        decay,
        there[0],
        back[0],
        height,
        columns,
        HEIGHT=padded_h,
        COLUMNS=block,
        PRECISION=precision,
        WIDEN=INTERPRETED,
        num_warps=warps,
    )
    return _along_width(back[1], y)


def _along_width(matrix: Tensor, x: Tensor) -> Tensor:
    y = torch.bmm(matrix.expand(x.size(0) * x.size(1), -1, -1), x.flatten(0, 1))
    return y.view(x.shape)


@torch.library.custom_op('mmvheat::heat_conduct', mutates_args=())
def heat_conduct(x: Tensor, decay: Tensor) -> Tensor:
    """Conduct heat over a map by the fused kernels.

    Args:
        x: Initial temperature of shape (B, H, W, C), float32, float16 or bfloat16; H at most 128.
            Half of the channels of a map is read in place.
        decay: What is left of each frequency, shape (H, W, C), of any of these dtypes.

    Returns:
        Temperature after conduction, shape (B, H, W, C), contiguous, of ``x``'s dtype.

    Raises:
        ValueError: If the shapes do not fit each other or the map the kernels.
    """
    if x.dim() != 4 or x.shape[1:] != decay.shape or not _is_possible(x):
        raise ValueError(
            f'heat_conduct wants x (B, H, W, C), not empty, H up to {_LARGEST_AXIS}, and a decay '
            f'(H, W, C), got {tuple(x.shape)} and {tuple(decay.shape)}'
        )
    if x.dtype == torch.float64:
        raise ValueError('heat_conduct wants float32, float16 or bfloat16, got float64')
    height, width = x.shape[1:3]
    there = analysis_basis(height, x), analysis_basis(width, x)
    back = synthesis_basis(height, x), synthesis_basis(width, x)
    # Triton launches on the current GPU, wherever the tensors are.
    with torch.cuda.device_of(x):
        return _launch(x, decay, there, back)


@heat_conduct.register_fake
def _(x: Tensor, decay: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op('mmvheat::heat_conduct_backward', mutates_args=())
def _heat_conduct_backward(grad: Tensor, x: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the map and of the decay; the operator is its own transpose."""
    height, width = x.shape[1:3]
    # Transposed, the scales of the way there and back change places.
    there = synthesis_basis(height, x).T, synthesis_basis(width, x).T
    back = analysis_basis(height, x).T, analysis_basis(width, x).T
    coefficients = transform2d(x, analysis_basis(height, x), analysis_basis(width, x))
    grad_decay = (coefficients * transform2d(grad, *there)).sum(0, dtype=torch.float32)
    with torch.cuda.device_of(x):
        return _launch(grad, decay, there, back), grad_decay.to(decay.dtype)


@_heat_conduct_backward.register_fake
def _(grad: Tensor, x: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), decay.new_empty(decay.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    return _heat_conduct_backward(grad, *ctx.saved_tensors)


heat_conduct.register_autograd(_backward, setup_context=_save)
