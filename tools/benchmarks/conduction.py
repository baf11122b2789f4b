"""Heat conduction in all ways that are timed: map (B, H, W, C) and diffusivity (H, W, C) to map."""

import torch
from torch import Tensor

from mmvheat.ops import dct_basis, heat_conduction, heat_decay, use_kernels
from mmvheat.ops.conduct_on_cpu import conduct_by_image, conduct_by_rows
from mmvheat.ops.heat import conduct_by_matrix

# What the backbone runs.
mmvheat = heat_conduction


def matrix(x: Tensor, k: Tensor) -> Tensor:
    """By one matrix for each axis, whichever way would be chosen."""
    return conduct_by_matrix(x, heat_decay(k).to(x.dtype))


def rows(x: Tensor, k: Tensor) -> Tensor:
    """In-place and without gradients, whichever way would be chosen."""
    return conduct_by_rows(x, heat_decay(k).to(x.dtype))


def images(x: Tensor, k: Tensor) -> Tensor:
    """One image after the other and without gradients, whichever way would be chosen."""
    return conduct_by_image(x, heat_decay(k).to(x.dtype))


def fused(x: Tensor, k: Tensor) -> Tensor:
    """By the fused kernels, where they are available and fit."""
    with use_kernels():
        return heat_conduction(x, k)


def einsum(x: Tensor, k: Tensor) -> Tensor:
    """As anybody would write it: orthonormal matrices in the dtype of the map."""
    along_height = dct_basis(x.size(1), x.dtype, x.device)
    along_width = dct_basis(x.size(2), x.dtype, x.device)
    # One axis after the other: an einsum of all three would first make the matrix of both axes.
    x = torch.einsum('ni,bijc->bnjc', along_height, x)
    x = torch.einsum('mj,bnjc->bnmc', along_width, x)
    x = x * heat_decay(k).to(x.dtype)
    x = torch.einsum('ni,bnmc->bimc', along_height, x)
    return torch.einsum('mj,bimc->bijc', along_width, x)
