"""Conduction with half the multiply-adds: even and odd parts apart.

A cosine of even frequency is symmetric about the middle of an axis, one of odd frequency
antisymmetric. So the even frequencies need only the sum of an axis and its mirror image, the odd
ones only the difference, each half as long.
"""

import math

import torch
from torch import Tensor

from ..constant_cache import ConstantCache
from ..dct import dct_basis

__all__ = ['conduct_by_even_odd']

_BASES = ConstantCache(capacity=512)


def conduct_by_even_odd(x: Tensor, decay: Tensor) -> Tensor:
    """Conduct heat over a map (B, H, W, C) with a decay (H, W, C) of its dtype."""
    for dim in (2, 1):
        x = _analyse(x, dim)
        # The same order of frequencies: the even ones, then the odd ones.
        even, odd = (decay[(slice(None),) * (dim - 1) + (slice(i, None, 2),)] for i in (0, 1))
        decay = torch.cat([even, odd], dim - 1)
    x = x * decay
    for dim in (1, 2):
        x = _synthesise(x, dim)
    return x


def _analyse(x: Tensor, dim: int) -> Tensor:
    """Transform an axis; the frequencies come even ones first."""
    length = x.size(dim)
    half = length // 2
    start, mirror = x.narrow(dim, 0, half), x.narrow(dim, length - half, half).flip(dim)
    even, odd = start + mirror, start - mirror
    if length % 2:
        even = torch.cat([even, x.narrow(dim, half, 1)], dim)
    scale = 1 / math.sqrt(length)
    even = _apply(_half_basis(length, 0, scale, x), even, dim)
    return torch.cat([even, _apply(_half_basis(length, 1, scale, x), odd, dim)], dim)


def _synthesise(coefficients: Tensor, dim: int) -> Tensor:
    """Transform an axis back."""
    length = coefficients.size(dim)
    half = length // 2
    even, odd = coefficients.split([length - half, half], dim)
    scale = math.sqrt(length)
    even = _apply(_half_basis(length, 0, scale, even).T, even, dim)
    odd = _apply(_half_basis(length, 1, scale, odd).T, odd, dim)
    middle = [even.narrow(dim, half, 1)] if length % 2 else []
    even = even.narrow(dim, 0, half)
    return torch.cat([even + odd, *middle, (even - odd).flip(dim)], dim)


def _half_basis(length: int, parity: int, scale: float, like: Tensor) -> Tensor:
    """Basis of the even (parity 0) or odd (1) frequencies over the first half of an axis."""

    def make() -> Tensor:
        basis = dct_basis(length, torch.float64, like.device)[parity::2]
        # The sample in the middle of an odd length is its own mirror image.
        samples = length // 2 if parity else -(-length // 2)
        return basis[:, :samples].mul(scale).to(like.dtype)

    return _BASES.get((length, parity, scale, like.dtype, like.device), make, like)


def _apply(basis: Tensor, x: Tensor, dim: int) -> Tensor:
    """Apply a matrix to an axis of a map (B, H, W, C)."""
    batch, height, width, channels = x.shape
    if dim == 1:
        x = x.reshape(batch, height, width * channels)
        return torch.bmm(basis.expand(batch, -1, -1), x).view(batch, -1, width, channels)
    x = x.reshape(batch * height, width, channels)
    return torch.bmm(basis.expand(x.size(0), -1, -1), x).view(batch, height, -1, channels)
