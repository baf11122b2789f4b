r"""Heat conduction of a feature map: the operator vHeat is named after.

The temperature :math:`u(x, y, t)` of an insulated plate obeys
:math:`\partial_t u = k (\partial_x^2 u + \partial_y^2 u)`. A cosine transform turns this into one
equation a frequency, solved by :math:`\exp(-k (\omega_x^2 + \omega_y^2) t)`, and so

.. math::
    U^t = \mathrm{IDCT}\big(\mathrm{DCT}(U^0) \cdot \exp(-(\omega_n^2 + \omega_m^2))^{k}\big),
    \quad \omega_n = n \pi / H, \; \omega_m = m \pi / W,

with t drawn into the learned diffusivity k, one value a frequency and channel
(vHeat, arXiv 2405.16555, Sec. 3.2 and 3.3). Time is O(N^1.5) in the number of tokens N = HW.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from . import kernels
from .conduct_on_cpu import (
    conduct_by_image,
    conduct_by_rows,
    images_are_faster,
    rows_are_faster,
)
from .dct import analysis_basis, synthesis_basis, transform2d
from .dispatch import compute_dtype, is_plain, multiply, needs_grad, without_autocast
from .freq_embed import resize_freq_embed
from .tensor_cache import ConstantCache

__all__ = [
    'conduct',
    'conduct_along_axes',
    'conduct_by_matrix',
    'given_diffusivity',
    'heat_conduction',
    'heat_decay',
    'predict_diffusivity',
    'squared_frequencies',
]

_SQUARED_FREQUENCIES = ConstantCache(capacity=128)


def squared_frequencies(size: Sequence[int], like: Tensor) -> Tensor:
    """Squared angular frequency of every DCT coefficient, ``(n pi / H)^2 + (m pi / W)^2``.

    Args:
        size: Rows H and columns W of the map; any number of axes.
        like: Gives the device; the dtype is float32, or float64 for a float64 ``like``.

    Returns:
        Tensor of shape ``size``, in radians squared a pixel squared.
    """
    size = tuple(size)
    dtype = torch.promote_types(like.dtype, torch.float32)

    def make() -> Tensor:
        squared = torch.zeros((), dtype=torch.float64, device=like.device)
        for length in size:
            n = torch.arange(length, dtype=torch.float64, device=like.device) * math.pi / length
            squared = squared[..., None] + n.square()
        return squared.to(dtype)

    return _SQUARED_FREQUENCIES.get((*size, dtype, like.device), make, like)


def predict_diffusivity(freq_embed: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Predict the diffusivity of every frequency and channel, ``relu(linear(freq_embed))``.

    Args:
        freq_embed: Frequency embedding of shape (H, W, C).
        weight: Weight of the linear layer, shape (C, C).
        bias: Its bias, shape (C,).

    Returns:
        Diffusivity of shape (H, W, C), not negative; at least float32 also under autocast, for it
        is an exponent.
    """
    dtype = torch.promote_types(freq_embed.dtype, torch.float32)
    with without_autocast(freq_embed.device.type):
        return F.relu(F.linear(freq_embed.to(dtype), weight.to(dtype), bias.to(dtype)))


def given_diffusivity(
    k: Tensor, size: tuple[int, int], channels: int, mode: str = 'bicubic'
) -> Tensor:
    """Diffusivity from values that are learned or fixed themselves, ``relu(k)``, for any map.

    Args:
        k: A value for each frequency and channel (H', W', C), which is fitted to the map as a
            frequency embedding is; one for each channel (C,); or one for all ().
        size: Height H and width W of the map.
        channels: Channels C of the map.
        mode: How to fit it, see :func:`.freq_embed.resize_freq_embed`.

    Returns:
        Diffusivity of shape (H, W, C), not negative, at least float32.
    """
    k = k.to(torch.promote_types(k.dtype, torch.float32))
    if k.dim() == 3:
        k = resize_freq_embed(k, size, mode)
    return F.relu(k).expand(*size, channels)


def heat_decay(k: Tensor) -> Tensor:
    """What is left of each frequency after conduction, ``exp(-(wn^2 + wm^2)) ** k``.

    Args:
        k: Diffusivity times time of shape (H, W, C), not negative; any number of axes before C.

    Returns:
        Decay of the same shape in [0, 1], float32 or wider; 1 at n = m = 0 even if k is infinite.
    """
    k = k.to(torch.promote_types(k.dtype, torch.float32))
    # Infinity times the frequency 0 would be NaN, in the decay and in its gradient.
    k = k.clamp(max=torch.finfo(k.dtype).max)
    return torch.exp(k * -squared_frequencies(k.shape[:-1], k)[..., None])


def heat_conduction(x: Tensor, k: Tensor) -> Tensor:
    """Let the heat of a map, a signal or a volume spread: DCT, decay, inverse DCT.

    Args:
        x: Initial temperature of shape (B, H, W, C), floating point. Of a signal it is (B, L, C),
            of a volume (B, D, H, W, C), and so on.
        k: Diffusivity times time of shape (H, W, C), not negative: ``x`` without the batch. 0
            leaves a frequency as it is, a large or infinite value removes it; the mean of the map
            (n = m = 0) always stays.

    Returns:
        Temperature after conduction, of ``x``'s shape and dtype (under autocast, of autocast's).

    Raises:
        ValueError: If the shapes do not fit each other.

    Example:
        >>> x = torch.randn(1, 6, 9, 4)
        >>> torch.allclose(heat_conduction(x, torch.zeros(6, 9, 4)), x, atol=1e-5)
        True
        >>> heat_conduction(torch.randn(1, 100, 4), torch.ones(100, 4)).shape
        torch.Size([1, 100, 4])
    """
    if x.dim() == 4:
        return conduct(x, heat_decay(k))
    if x.dim() < 3 or x.shape[1:] != k.shape:
        raise ValueError(
            'heat conduction wants x (B, H, W, C) and one value for each (H, W, C), with one axis '
            f'or more in the place of H and W, got {tuple(x.shape)} and {tuple(k.shape)}'
        )
    return conduct_along_axes(x, heat_decay(k))


def conduct_along_axes(x: Tensor, decay: Tensor) -> Tensor:
    """Conduct heat along any number of axes, by one matrix product for each, there and back.

    Args:
        x: Initial temperature of shape (B, ..., C).
        decay: What is left of each frequency, of the same shape without B.

    Returns:
        Temperature after conduction, as of :func:`heat_conduction`.
    """
    x = x.to(compute_dtype(x))
    axes = range(1, x.dim() - 1)
    for axis in axes:
        x = _along(x, axis, analysis_basis(x.size(axis), x))
    x = x * decay.to(x.dtype)
    for axis in axes:
        x = _along(x, axis, synthesis_basis(x.size(axis), x))
    return x


def _along(x: Tensor, axis: int, basis: Tensor) -> Tensor:
    """Apply a matrix (N, N) along an axis of length N."""
    return (x.transpose(axis, -1) @ basis.T).transpose(axis, -1)


def conduct(x: Tensor, decay: Tensor, plain: bool | None = None) -> Tensor:
    """Let each frequency of a map decay: DCT, product, inverse DCT.

    Args:
        x: Initial temperature of shape (B, H, W, C), floating point.
        decay: What is left of each frequency, shape (H, W, C): see :func:`heat_decay`.
        plain: Whether both are ordinary tensors, if known, see :func:`.dispatch.is_plain`.

    Returns:
        Temperature after conduction, shape (B, H, W, C), of ``x``'s dtype (under autocast, of
        autocast's).

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    if x.dim() != 4 or x.shape[1:] != decay.shape:
        raise ValueError(
            'heat conduction wants x (B, H, W, C) and one value for each (H, W, C), got '
            f'{tuple(x.shape)} and {tuple(decay.shape)}'
        )
    dtype = compute_dtype(x)
    x, decay = x.to(dtype), decay.to(dtype)
    if kernels.kernels_enabled(x.device) and kernels.fits_kernels(x):
        return kernels.heat_conduct(x, decay)
    plain = is_plain((x, decay)) if plain is None else plain
    if plain and not needs_grad((x, decay)):
        return _conduct(x, decay)
    return conduct_by_matrix(x, decay, plain)


def conduct_by_matrix(x: Tensor, decay: Tensor, plain: bool | None = None) -> Tensor:
    """Conduct heat by matrix products, two for each axis.

    Args:
        x: Map of shape (B, H, W, C).
        decay: Decay of shape (H, W, C), of the map's dtype.
        plain: Whether both are ordinary tensors, if known.

    Returns:
        Map of shape (B, H, W, C).
    """
    # A compiler decides by itself what to recompute.
    if is_plain((x, decay)) if plain is None else plain:
        recorded = needs_grad((x, decay))
        return _Conduct.apply(x, decay) if recorded else _conduct_at_once(x, decay)
    coefficients = _analyse(x)
    # Compiled under autocast, the transform is where the dtype changes.
    return _synthesise(coefficients * decay.to(coefficients.dtype))


def _analyse(x: Tensor, memory: Sequence[Tensor] = ()) -> Tensor:
    return transform2d(x, analysis_basis(x.size(1), x), analysis_basis(x.size(2), x), memory)


def _synthesise(coefficients: Tensor, memory: Sequence[Tensor] = ()) -> Tensor:
    height, width = coefficients.shape[1:3]
    along_height = synthesis_basis(height, coefficients)
    return transform2d(coefficients, along_height, synthesis_basis(width, coefficients), memory)


def _conduct(x: Tensor, decay: Tensor) -> Tensor:
    """Conduct heat in the fastest order, while nothing is recorded."""
    if rows_are_faster(x):
        return conduct_by_rows(x, decay)
    if images_are_faster(x):
        return conduct_by_image(x, decay)
    return _conduct_at_once(x, decay)


def _conduct_at_once(x: Tensor, decay: Tensor) -> Tensor:
    """Conduct the heat of all images in the memory of two maps."""
    memory = _maps_like(x, 2)
    return _synthesise(_analyse(x, memory).mul_(decay), memory)


def _maps_like(x: Tensor, count: int) -> list[Tensor]:
    return [torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(count)]


class _Conduct(torch.autograd.Function):
    """Conduction that saves its inputs alone: the backward pass computes the coefficients again.

    It consists of differentiable operations, so it can be differentiated again.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, decay: Tensor) -> Tensor:
        """Transform, multiply, transform back."""
        ctx.save_for_backward(x, decay)
        return _conduct(x, decay)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of the map and of the decay."""
        x, decay = ctx.saved_tensors
        height, width = x.shape[1:3]
        grad_x = grad_decay = None
        # The transposed inverse: the transform itself, in the scale of the inverse.
        back = synthesis_basis(height, x).T, synthesis_basis(width, x).T
        there = analysis_basis(height, x).T, analysis_basis(width, x).T
        overwrite = not torch.is_grad_enabled() and is_plain((grad, x, decay))
        memory = _maps_like(x, 2) if overwrite else ()
        grad = transform2d(grad, *back, memory)
        if ctx.needs_input_grad[1]:
            coefficients = _analyse(x, [memory[0], *_maps_like(x, 1)] if overwrite else ())
            grad_decay = multiply(coefficients, grad, overwrite).sum(0)
        if ctx.needs_input_grad[0]:
            grad_x = transform2d(multiply(grad, decay, overwrite), *there, memory)
        return grad_x, grad_decay
