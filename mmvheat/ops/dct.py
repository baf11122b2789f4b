"""The orthonormal two-dimensional discrete cosine transform of channels-last maps."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .dispatch import has_open_size, is_exporting
from .tensor_cache import ConstantCache

__all__ = ['dct2d', 'dct_basis', 'idct2d', 'transform2d']

_BASES = ConstantCache(capacity=512)


def dct_basis(
    length: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Orthonormal DCT-II matrix.

    ``C[n, x] = sqrt(2 / N) cos(pi n (x + 1/2) / N)``, the row n = 0 divided by ``sqrt(2)``, so
    that ``C @ C.T`` is the identity. It is computed in float64 and rounded once.

    Args:
        length: Number of samples N.
        dtype: Floating dtype of the result.
        device: Device of the result.

    Returns:
        Matrix of shape (N, N): a row a frequency, a column a position.
    """
    return (_cosines(length, device) * math.sqrt(1 / length)).to(dtype)


def _cosines(length: int, device: torch.device | str | None) -> Tensor:
    """Compute ``dct_basis(length) * sqrt(length)`` in float64.

    Operations on tensors alone see the length, so a graph whose sizes are open can hold them. The
    angles are reduced while they are integers: an exported graph that computes the cosine in
    float32 is as exact for long maps as for short ones.
    """
    n = torch.arange(length, device=device)
    circle = 4 * (n[-1:] + 1)
    quarters = n[:, None] * (2 * n + 1) % circle
    cosines = torch.cos(quarters.double() * (math.pi / 2) / length)
    # 1 for the constant row, else sqrt(2), without a rounding to float32.
    return cosines * ((n > 0).double() * (math.sqrt(2) - 1) + 1)[:, None]


def analysis_basis(length: int, like: Tensor) -> Tensor:
    """``dct_basis(length) / sqrt(length)``, for ``like``'s dtype and device.

    With this scale the transform's first coefficient is the mean of the map, whatever its size,
    so half precision cannot overflow; :func:`synthesis_basis` takes it back.
    """

    def make() -> Tensor:
        return (_cosines(length, like.device) / length).to(like.dtype)

    return _BASES.get(('analysis', length, like.dtype, like.device), make, like)


def synthesis_basis(length: int, like: Tensor) -> Tensor:
    """Inverse of :func:`analysis_basis`, for ``like``'s dtype and device."""

    def make() -> Tensor:
        return _cosines(length, like.device).T.contiguous().to(like.dtype)

    return _BASES.get(('synthesis', length, like.dtype, like.device), make, like)


def transform2d(
    x: Tensor, along_height: Tensor, along_width: Tensor, memory: Sequence[Tensor] = ()
) -> Tensor:
    """Apply one matrix to the rows and one to the columns of a map.

    Args:
        x: Map of shape (B, H, W, C).
        along_height: Matrix of shape (H', H).
        along_width: Matrix of shape (W', W).
        memory: Two contiguous tensors of the map's shape and dtype to write to, if the matrices
            are square: what is between the axes, and the result, which may be ``x``.

    Returns:
        Map of shape (B, H', W', C) of ``x``'s dtype (under autocast, of autocast's).
    """
    batch, height, width, channels = x.shape
    if has_open_size((height, width)):
        # torch.export cannot prove that a flattened map can be split again.
        x = (along_width @ x).transpose(1, 2).contiguous()
        return (along_height @ x).transpose(1, 2).contiguous()
    if is_exporting():
        # Other runtimes broadcast a matrix without a copy for each row.
        x = along_height @ (along_width @ x).flatten(2)
        return x.unflatten(2, (-1, channels))
    along_height = along_height.to(x.dtype).expand(batch, -1, -1)
    along_width = along_width.to(x.dtype).expand(batch * height, -1, -1)
    # The rows first: half of the channels of a map is then read in place, without a copy.
    # bmm over an expanded matrix, not a broadcast matmul: FLOP counters see all of it.
    shape = batch, height, along_width.size(1) * channels
    halfway, result = (memory[0].flatten(0, 1), memory[1].view(shape)) if memory else (None, None)
    x = torch.bmm(along_width, x.reshape(-1, width, channels), out=halfway)
    x = torch.bmm(along_height, x.reshape(shape), out=result)
    return x.reshape(batch, along_height.size(1), along_width.size(1), channels)


def _basis_pair(x: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal bases for the two axes of a map of shape (B, H, W, C)."""
    if x.dim() != 4:
        raise ValueError(f'a map has shape (B, H, W, C), got {tuple(x.shape)}')
    dtype = torch.promote_types(x.dtype, torch.float32)
    return dct_basis(x.size(1), dtype, x.device), dct_basis(x.size(2), dtype, x.device)


def dct2d(x: Tensor) -> Tensor:
    """Orthonormal 2D DCT-II.

    Args:
        x: Map of shape (B, H, W, C), floating point.

    Returns:
        Coefficients of shape (B, H, W, C), the constant one at index (0, 0).

    Raises:
        ValueError: If ``x`` has not four dimensions.

    Example:
        >>> x = torch.randn(1, 7, 5, 2)
        >>> torch.allclose(idct2d(dct2d(x)), x, atol=1e-5)
        True
    """
    return transform2d(x, *_basis_pair(x))


def idct2d(coefficients: Tensor) -> Tensor:
    """Inverse of :func:`dct2d` (the orthonormal DCT-III).

    Args:
        coefficients: Coefficients of shape (B, H, W, C), floating point.

    Returns:
        Map of shape (B, H, W, C).

    Raises:
        ValueError: If ``coefficients`` has not four dimensions.
    """
    along_height, along_width = _basis_pair(coefficients)
    return transform2d(coefficients, along_height.T, along_width.T)
