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

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from .constant_cache import ConstantCache
from .dct import analysis_basis, synthesis_basis, transform2d
from .plain import is_plain, needs_grad
from .precision import compute_dtype

__all__ = ['conduct', 'heat_conduction', 'heat_decay', 'squared_frequencies']

_SQUARED_FREQUENCIES = ConstantCache(capacity=128)


def squared_frequencies(height: int, width: int, like: Tensor) -> Tensor:
    """Squared angular frequency of every DCT coefficient, ``(n pi / H)^2 + (m pi / W)^2``.

    Args:
        height: Rows H of the map.
        width: Columns W of the map.
        like: Gives the device; the dtype is float32, or float64 for a float64 ``like``.

    Returns:
        Tensor of shape (H, W), in radians squared a pixel squared.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)

    def make() -> Tensor:
        n = torch.arange(height, dtype=torch.float64, device=like.device) * (math.pi / height)
        m = torch.arange(width, dtype=torch.float64, device=like.device) * (math.pi / width)
        return (n.square()[:, None] + m.square()[None, :]).to(dtype)

    return _SQUARED_FREQUENCIES.get((height, width, dtype, like.device), make, like)


def heat_decay(k: Tensor) -> Tensor:
    """What is left of each frequency after conduction, ``exp(-(wn^2 + wm^2)) ** k``.

    Args:
        k: Diffusivity times time of shape (H, W, C), not negative.

    Returns:
        Decay of shape (H, W, C) in (0, 1], float32 or wider.
    """
    k = k.to(torch.promote_types(k.dtype, torch.float32))
    return torch.exp(-k * squared_frequencies(k.size(0), k.size(1), k)[..., None])


def conduct(x: Tensor, decay: Tensor) -> Tensor:
    """Let each frequency of a map decay: DCT, product, inverse DCT.

    Args:
        x: Initial temperature of shape (B, H, W, C), floating point.
        decay: What is left of each frequency, shape (H, W, C): see :func:`heat_decay`.

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
    plain = is_plain((x, decay))
    # A compiler decides by itself what to recompute.
    if plain and needs_grad((x, decay)):
        return _Conduct.apply(x, decay)
    coefficients = _analyse(x)
    coefficients = coefficients.mul_(decay) if plain else coefficients * decay
    return _synthesise(coefficients)


def _analyse(x: Tensor) -> Tensor:
    return transform2d(x, analysis_basis(x.size(1), x), analysis_basis(x.size(2), x))


def _synthesise(coefficients: Tensor) -> Tensor:
    height, width = coefficients.shape[1:3]
    along_height = synthesis_basis(height, coefficients)
    return transform2d(coefficients, along_height, synthesis_basis(width, coefficients))


class _Conduct(torch.autograd.Function):
    """Conduction that keeps its inputs alone: the coefficients are computed again.

    Its backward pass consists of differentiable operations, so it can be differentiated again.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, decay: Tensor) -> Tensor:
        """Transform, multiply, transform back."""
        ctx.save_for_backward(x, decay)
        return _synthesise(_analyse(x).mul_(decay))

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of the map and of the decay."""
        x, decay = ctx.saved_tensors
        height, width = x.shape[1:3]
        grad_x = grad_decay = None
        # The transposed inverse: the transform itself, in the scale of the inverse.
        grad = transform2d(grad, synthesis_basis(height, x).T, synthesis_basis(width, x).T)
        if ctx.needs_input_grad[1]:
            grad_decay = (_analyse(x) * grad).sum(0)
        if ctx.needs_input_grad[0]:
            grad = grad * decay
            grad_x = transform2d(grad, analysis_basis(height, x).T, analysis_basis(width, x).T)
        return grad_x, grad_decay


def heat_conduction(x: Tensor, k: Tensor) -> Tensor:
    """Let the heat of a map spread: DCT, decay, inverse DCT.

    Args:
        x: Initial temperature of shape (B, H, W, C), floating point.
        k: Diffusivity times time of shape (H, W, C), not negative. 0 leaves a frequency as it
            is, a large value removes it; the mean of the map (n = m = 0) always stays.

    Returns:
        Temperature after conduction, shape (B, H, W, C), of ``x``'s dtype (under autocast, of
        autocast's).

    Raises:
        ValueError: If the shapes do not fit each other.

    Example:
        >>> x = torch.randn(1, 6, 9, 4)
        >>> torch.allclose(heat_conduction(x, torch.zeros(6, 9, 4)), x, atol=1e-5)
        True
    """
    return conduct(x, heat_decay(k))
