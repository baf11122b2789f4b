"""Conduction by the fused GPU kernels, where they are there and meant for the map."""

from torch import Tensor

from ..kernels import fits_kernels, heat_conduct, kernels_available
from .matrix import conduct_by_matrix

__all__ = ['conduct_by_kernels']


def conduct_by_kernels(x: Tensor, decay: Tensor) -> Tensor:
    """Conduct heat over a map (B, H, W, C) with a decay (H, W, C) of its dtype."""
    if kernels_available(x.device) and fits_kernels(x):
        return heat_conduct(x, decay)
    return conduct_by_matrix(x, decay)
