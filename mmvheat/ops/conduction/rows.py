"""Conduction with one axis fused: there, decayed and back while rows are in the cache."""

import torch
from torch import Tensor

from ..dct import analysis_basis, synthesis_basis
from ..plain import is_plain, needs_grad

__all__ = ['conduct_by_rows']

# Half of the second-level cache of the CPUs this was measured on.
_CHUNK_BYTES = 2**20


def conduct_by_rows(x: Tensor, decay: Tensor) -> Tensor:
    """Conduct heat over a map (B, H, W, C) with a decay (H, W, C) of its dtype."""
    batch, height, width, channels = x.shape
    there, back = analysis_basis(width, x), synthesis_basis(width, x)
    x = _along_height(analysis_basis(height, x), x)
    step = max(1, _CHUNK_BYTES // max(1, width * channels * x.element_size()))
    in_place = is_plain((x, decay)) and not needs_grad((x, decay))
    images = []
    for image in x:
        pieces = []
        for rows, kept in zip(image.split(step), decay.split(step), strict=True):
            count = rows.size(0)
            coefficients = torch.bmm(there.expand(count, -1, -1), rows) * kept
            if in_place:
                torch.bmm(back.expand(count, -1, -1), coefficients, out=rows)
            else:
                pieces.append(torch.bmm(back.expand(count, -1, -1), coefficients))
        if not in_place:
            images.append(torch.cat(pieces))
    if images:
        x = torch.stack(images)
    return _along_height(synthesis_basis(height, x), x)


def _along_height(basis: Tensor, x: Tensor) -> Tensor:
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width * channels)
    return torch.bmm(basis.expand(batch, -1, -1), x).view(batch, height, width, channels)
