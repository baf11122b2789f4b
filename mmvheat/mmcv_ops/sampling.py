"""Bilinear samples of feature maps at arbitrary points, as RoIAlign takes them."""

import torch
from torch import Tensor

__all__ = ['corners', 'sample']


def corners(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The four pixels around each point, and their weights.

    A point up to one pixel outside the map takes the value of its edge; farther ones weigh nothing.

    Args:
        y: Vertical coordinates in pixels, 0 at the centre of the first row.
        x: Horizontal coordinates, of the same shape (...).
        height: Rows of the map.
        width: Columns of the map.

    Returns:
        Flat indices (4, ...), int64, and weights (4, ...), differentiable by the coordinates.
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    # Far points keep a finite index; their weights are zero.
    y = torch.where(inside, y, 0).clamp(0, height - 1)
    x = torch.where(inside, x, 0).clamp(0, width - 1)
    top, left = y.detach().long(), x.detach().long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    down, across = y - top, x - left
    weights = torch.stack(
        ((1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across)
    )
    pixels = torch.stack((top, top, bottom, bottom)) * width
    pixels = pixels + torch.stack((left, right, left, right))
    return pixels, weights * inside


def sample(features: Tensor, images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear samples of feature maps.

    Args:
        features: (N, C, H, W).
        images: Index of the map of each row of points (K,), int64.
        y: Vertical coordinates in pixels (K, ...).
        x: Horizontal coordinates (K, ...).

    Returns:
        Samples (K, ..., C), differentiable by features and coordinates.
    """
    height, width = features.shape[2:]
    pixels, weights = corners(y, x, height, width)
    first = images.view(-1, *[1] * (y.dim() - 1)) * (height * width)
    rows = features.permute(0, 2, 3, 1).reshape(-1, features.size(1))
    # A loop over the four corners: all at once would take four times the memory.
    return sum(
        rows[first + pixel] * weight[..., None]
        for pixel, weight in zip(pixels, weights, strict=True)
    )
