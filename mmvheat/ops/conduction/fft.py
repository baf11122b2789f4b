"""Conduction by fast Fourier transforms: O(N log N) in the number of tokens.

A cosine transform is a Fourier transform of the samples in the order 0, 2, 4, ..., 5, 3, 1, turned
by a quarter of a sample (J. Makhoul, "A fast cosine transform in one and two dimensions", 1980).
"""

import math

import torch
from torch import Tensor

from ..constant_cache import ConstantCache

__all__ = ['conduct_by_fft']

_TURNS = ConstantCache(capacity=512)
_ORDERS = ConstantCache(capacity=512)


def conduct_by_fft(x: Tensor, decay: Tensor) -> Tensor:
    """Conduct heat over a map (B, H, W, C) with a decay (H, W, C); in float32 or float64."""
    dtype = x.dtype
    x = x.to(torch.promote_types(dtype, torch.float32))
    x = _analyse(_analyse(x, 2), 1) * decay
    return _synthesise(_synthesise(x, 1), 2).to(dtype)


def _analyse(x: Tensor, dim: int) -> Tensor:
    """Transform an axis, without the scale that the way back would undo."""
    turn = _turn(x, dim)
    spectrum = torch.fft.fft(x.index_select(dim, _order(x, dim)), dim=dim)
    return (spectrum * turn).real


def _synthesise(coefficients: Tensor, dim: int) -> Tensor:
    """Transform an axis back."""
    length = coefficients.size(dim)
    # The imaginary part is the spectrum's mirror image, which begins with nothing.
    mirror = coefficients.narrow(dim, 1, length - 1).flip(dim)
    mirror = torch.cat([torch.zeros_like(coefficients.narrow(dim, 0, 1)), mirror], dim)
    spectrum = torch.complex(coefficients, -mirror) * _turn(coefficients, dim).conj()
    samples = torch.fft.ifft(spectrum, dim=dim).real
    return samples.index_select(dim, torch.argsort(_order(coefficients, dim)))


def _turn(like: Tensor, dim: int) -> Tensor:
    """Factors ``exp(-i pi n / 2N)`` along an axis of a map."""
    length = like.size(dim)
    kind = torch.complex128 if like.dtype == torch.float64 else torch.complex64

    def make() -> Tensor:
        angle = torch.arange(length, dtype=torch.float64, device=like.device)
        angle *= -math.pi / (2 * length)
        return torch.polar(torch.ones_like(angle), angle).to(kind)

    turn = _TURNS.get((length, kind, like.device), make, like)
    return turn.view([length if d == dim else 1 for d in range(4)])


def _order(like: Tensor, dim: int) -> Tensor:
    """Indices of the even samples, then of the odd ones backwards."""
    length = like.size(dim)

    def make() -> Tensor:
        indices = torch.arange(length, device=like.device)
        return torch.cat([indices[0::2], indices[1::2].flip(0)])

    return _ORDERS.get((length, like.device), make, like)
