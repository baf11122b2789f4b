"""The slow and obvious vHeat operator in float64: what every fast path is tested against.

Nothing here is shared with the production path, so that one mistake cannot hide in both.
"""

import math
from itertools import product

import torch
from torch import Tensor

__all__ = [
    'dct2d_reference',
    'dct_filter_reference',
    'global_filter_reference',
    'heat_conduction_reference',
    'idct2d_reference',
]


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


def dct_filter_reference(x: Tensor, spectrum: Tensor) -> Tensor:
    """Multiply every frequency of a map, a signal or a volume by a number.

    Args:
        x: Shape (B, ..., C), any number of axes between.
        spectrum: A factor for each frequency and channel: ``x``'s shape without B.

    Returns:
        The filtered map, of ``x``'s shape, float64.
    """
    x, spectrum = x.double().cpu(), spectrum.double().cpu()
    size = x.shape[1:-1]
    filtered = torch.zeros_like(x)
    for frequency in product(*map(range, size)):
        image = torch.ones((), dtype=torch.float64)
        for n, length in zip(frequency, size, strict=True):
            image = image[..., None] * _cosine(n, length)
        image = image[..., None]
        coefficient = (x * image).flatten(1, -2).sum(1)
        kept = coefficient * spectrum[frequency]
        filtered = filtered + kept.reshape(len(x), *(1 for _ in size), -1) * image
    return filtered


def heat_conduction_reference(x: Tensor, k: Tensor) -> Tensor:
    """Heat conduction of a map, frequency by frequency (vHeat, Eq. 9).

    Args:
        x: Initial temperature of shape (B, H, W, C); any number of axes between B and C.
        k: Diffusivity times time, not negative: ``x``'s shape without B.

    Returns:
        Temperature after conduction, of ``x``'s shape, float64.
    """
    k = k.double().cpu()
    size = k.shape[:-1]
    decay = torch.empty_like(k)
    for frequency in product(*map(range, size)):
        angular = (n * math.pi / length for n, length in zip(frequency, size, strict=True))
        decay[frequency] = math.exp(-sum(w**2 for w in angular)) ** k[frequency]
    return dct_filter_reference(x, decay)


def global_filter_reference(x: Tensor, spectrum: Tensor) -> Tensor:
    """Circular convolution with the kernel of a real Fourier spectrum, sum by sum.

    Args:
        x: Map of shape (B, H, W, C).
        spectrum: Real and imaginary parts, shape (H, W // 2 + 1, C, 2), see
            :func:`mmvheat.ops.filter_globally`.

    Returns:
        Map of shape (B, H, W, C) in float64.
    """
    x, spectrum = x.double().cpu(), spectrum.double().cpu()
    _, height, width, _ = x.shape
    filtered = torch.zeros_like(x)
    for i, j in product(range(height), range(width)):
        kernel = torch.zeros(x.size(3), dtype=torch.float64)
        for n, m in product(range(height), range(width // 2 + 1)):
            phase = 2 * math.pi * (n * i / height + m * j / width)
            real, imaginary = spectrum[n, m].unbind(-1)
            # A column that is not its own mirror image stands for two.
            times = 1 if 2 * m in (0, width) else 2
            kernel = kernel + times * (real * math.cos(phase) - imaginary * math.sin(phase))
        moved = x.roll((i, j), dims=(1, 2))
        filtered = filtered + moved * kernel / (height * width)
    return filtered
