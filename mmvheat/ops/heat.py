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

from .conduction import CONDUCTION_METHODS, fastest_method
from .constant_cache import ConstantCache
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
        Decay of shape (H, W, C) in [0, 1], float32 or wider; 1 at n = m = 0 even if k is infinite.
    """
    k = k.to(torch.promote_types(k.dtype, torch.float32))
    # Infinity times the frequency 0 would be NaN, in the decay and in its gradient.
    k = k.clamp(max=torch.finfo(k.dtype).max)
    return torch.exp(k * -squared_frequencies(k.size(0), k.size(1), k)[..., None])


def conduct(x: Tensor, decay: Tensor, method: str = 'auto') -> Tensor:
    """Let each frequency of a map decay: DCT, product, inverse DCT.

    Args:
        x: Initial temperature of shape (B, H, W, C), floating point.
        decay: What is left of each frequency, shape (H, W, C): see :func:`heat_decay`.
        method: How: one of ``CONDUCTION_METHODS``, or ``'auto'`` for the fastest measured one. All
            compute the same.

    Returns:
        Temperature after conduction, shape (B, H, W, C), of ``x``'s dtype (under autocast, of
        autocast's).

    Raises:
        ValueError: If the shapes do not fit each other, or the method is unknown.
    """
    if x.dim() != 4 or x.shape[1:] != decay.shape:
        raise ValueError(
            'heat conduction wants x (B, H, W, C) and one value for each (H, W, C), got '
            f'{tuple(x.shape)} and {tuple(decay.shape)}'
        )
    dtype = compute_dtype(x)
    x, decay = x.to(dtype), decay.to(dtype)
    if method == 'auto':
        method = fastest_method(x, decay)
    elif method not in CONDUCTION_METHODS:
        names = ', '.join(CONDUCTION_METHODS)
        raise ValueError(f"method is 'auto' or one of {names}, got {method!r}")
    return CONDUCTION_METHODS[method](x, decay)


def heat_conduction(x: Tensor, k: Tensor, method: str = 'auto') -> Tensor:
    """Let the heat of a map spread: DCT, decay, inverse DCT.

    Args:
        x: Initial temperature of shape (B, H, W, C), floating point.
        k: Diffusivity times time of shape (H, W, C), not negative. 0 leaves a frequency as it
            is, a large or infinite value removes it; the mean of the map (n = m = 0) always stays.
        method: How, see :func:`conduct`.

    Returns:
        Temperature after conduction, shape (B, H, W, C), of ``x``'s dtype (under autocast, of
        autocast's).

    Raises:
        ValueError: If the shapes do not fit each other, or the method is unknown.

    Example:
        >>> x = torch.randn(1, 6, 9, 4)
        >>> torch.allclose(heat_conduction(x, torch.zeros(6, 9, 4)), x, atol=1e-5)
        True
    """
    return conduct(x, heat_decay(k), method)
