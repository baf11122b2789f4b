"""Values over frequencies: diffusivity, decay, spectra; by groups of channels and by radius."""

import numpy as np
import torch
from torch import Tensor

from mmvheat.errors import UserError
from mmvheat.ops import dct2d
from mmvheat.ops.heat import squared_frequencies

__all__ = ['channel_groups', 'group_means', 'magnitude_spectrum', 'radial_profile']


def channel_groups(k: Tensor, count: int = 4) -> list[Tensor]:
    """Sort channels by how well they conduct, and split them into groups of equal size.

    Args:
        k: Diffusivity of shape (H, W, C). Infinite values count as the largest finite one, and
            ``k[0, 0]``, which has no effect, not at all.
        count: Number of groups; at most one a channel.

    Returns:
        Indices of the channels of each group, from the least conducting to the most.

    Raises:
        UserError: If count is not in 1 to C.
    """
    if not 1 <= count <= k.size(-1):
        raise UserError(f'{k.size(-1)} channels make 1 to {k.size(-1)} groups, got {count}')
    values = k.flatten(0, 1)[1:] if k[..., 0].numel() > 1 else k.flatten(0, 1)
    finite = values[values.isfinite()]
    largest = finite.max().item() if len(finite) else 0.0
    order = values.nan_to_num(posinf=largest).mean(0).argsort(stable=True)
    return list(order.tensor_split(count))


def group_means(values: Tensor, groups: list[Tensor]) -> np.ndarray:
    """Average over the channels of each group.

    Args:
        values: Shape (H, W, C).
        groups: Indices of channels, see :func:`channel_groups`.

    Returns:
        Means of shape (G, H, W).
    """
    means = torch.stack([values[..., group].mean(-1) for group in groups])
    return means.detach().cpu().numpy()


def magnitude_spectrum(maps: Tensor) -> np.ndarray:
    """Compute how strong each frequency is: root mean square of the DCT coefficients.

    Args:
        maps: Shape (B, H, W, C).

    Returns:
        Magnitude of shape (H, W), the mean of the map at index (0, 0).
    """
    return dct2d(maps.float()).square().mean((0, 3)).sqrt().detach().cpu().numpy()


def radial_profile(values: np.ndarray, bins: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Average over the frequencies of equal length, ``sqrt(wn^2 + wm^2)``.

    Args:
        values: A value a frequency, shape (H, W).
        bins: Rings of equal width from 0 to the largest frequency; half of the longer side if None.

    Returns:
        Mean frequency of each ring, in radians a pixel, and the mean of the values there. Rings
        without a frequency are left out.
    """
    height, width = values.shape
    bins = max(height, width) // 2 + 1 if bins is None else bins
    squared = squared_frequencies((height, width), torch.empty(0, dtype=torch.float64))
    radius = squared.sqrt().numpy().ravel()
    ring = np.minimum((radius * (bins / max(radius.max(), 1e-9))).astype(int), bins - 1)
    count = np.bincount(ring, minlength=bins)
    there = count > 0
    sums = (np.bincount(ring, part.ravel(), bins)[there] for part in (radius, values))
    frequency, mean = (total / count[there] for total in sums)
    return frequency, mean
