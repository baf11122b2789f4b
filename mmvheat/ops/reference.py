"""The slow and obvious vHeat operator in float64: what every fast path is tested against.

Nothing here is shared with the production path, so that one mistake cannot hide in both.
"""

import math

import torch
from torch import Tensor

__all__ = ['dct2d_reference', 'heat_conduction_reference', 'idct2d_reference']


def _cosine(frequency: int, length: int) -> Tensor:
    """One orthonormal DCT-II basis vector of shape (length,)."""
    scale = math.sqrt((1 if frequency == 0 else 2) / length)
    positions = torch.arange(length, dtype=torch.float64)
    return scale * torch.cos(math.pi * frequency * (positions + 0.5) / length)


def dct2d_reference(x: Tensor) -> Tensor:
    """2D DCT-II by direct sums, ``F[n, m] = sum_ij f[i, j] c_n[i] c_m[j]``.

    Args:
        x: Map of shape (B, H, W, C).

    Returns:
        Coefficients of shape (B, H, W, C) in float64.
    """
    x = x.double().cpu()
    _, height, width, _ = x.shape
    rows = []
    for n in range(height):
        along_height = sum(x[:, i] * c for i, c in enumerate(_cosine(n, height)))
        columns = []
        for m in range(width):
            columns.append(sum(along_height[:, j] * c for j, c in enumerate(_cosine(m, width))))
        rows.append(torch.stack(columns, dim=1))
    return torch.stack(rows, dim=1)


def idct2d_reference(coefficients: Tensor) -> Tensor:
    """Inverse of :func:`dct2d_reference`: the weighted sum of all basis images.

    Args:
        coefficients: Coefficients of shape (B, H, W, C).

    Returns:
        Map of shape (B, H, W, C) in float64.
    """
    coefficients = coefficients.double().cpu()
    _, height, width, _ = coefficients.shape
    x = torch.zeros_like(coefficients)
    for n in range(height):
        for m in range(width):
            image = torch.outer(_cosine(n, height), _cosine(m, width))
            x = x + coefficients[:, n, m][:, None, None, :] * image[None, :, :, None]
    return x


def heat_conduction_reference(x: Tensor, k: Tensor) -> Tensor:
    """Heat conduction of a map, frequency by frequency (vHeat, Eq. 9).

    Args:
        x: Initial temperature of shape (B, H, W, C).
        k: Diffusivity times time of shape (H, W, C), not negative.

    Returns:
        Temperature after conduction, shape (B, H, W, C), float64.
    """
    _, height, width, _ = x.shape
    coefficients = dct2d_reference(x)
    decayed = torch.empty_like(coefficients)
    for n in range(height):
        for m in range(width):
            squared = (n * math.pi / height) ** 2 + (m * math.pi / width) ** 2
            decay = math.exp(-squared) ** k[n, m].double().cpu()
            decayed[:, n, m] = coefficients[:, n, m] * decay
    return idct2d_reference(decayed)
