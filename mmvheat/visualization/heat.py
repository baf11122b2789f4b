"""How heat spreads from a point: what a block does with a single hot cell of its map."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmvheat.errors import UserError
from mmvheat.ops import conduct, heat_decay

__all__ = ['heat_at', 'point_heat']


def point_heat(
    k: Tensor,
    cell: tuple[int, int],
    times: Sequence[float] = (1.0,),
    channel: int | None = None,
    weights: Tensor | None = None,
) -> np.ndarray:
    """Conduct the heat of one cell over the map, as in Figures 2b and 5 of arXiv 2405.16555.

    At time 0 the cell has temperature 1 and all others have 0. The mean over the map stays,
    whatever the time: 1 / (H W).

    Args:
        k: Diffusivity of shape (H, W, C), see :func:`.block_diffusivity`.
        cell: Row and column of the hot cell, from 0.
        times: They multiply the diffusivity. 1 is what the block does.
        channel: The channel to show; None for the mean over all of them.
        weights: Weight of each channel in the mean, of shape (C,), not negative; how warm an image
            makes the cell, for example. None for equal ones.

    Returns:
        Temperature at each of the times, of shape (T, H, W), of k's dtype.

    Raises:
        UserError: If the cell or the channel is outside of the map, or a time is negative or
            not finite.
    """
    height, width, channels = k.shape
    if not (0 <= cell[0] < height and 0 <= cell[1] < width):
        raise UserError(
            f'cell {cell[0]} {cell[1]} (row, column) is outside of the map of {height} x {width}'
        )
    if channel is not None and not 0 <= channel < channels:
        raise UserError(f'there is no channel {channel}: the map has 0 to {channels - 1}')
    source = k.new_zeros(1, height, width, 1)
    source[:, cell[0], cell[1]] = 1
    maps = []
    for time in times:
        # Conduction is linear: the mean of the decays gives the mean of the maps.
        decay = _mean(heat_at(k, time), channel, weights)
        maps.append(conduct(source, decay)[0, ..., 0].cpu().numpy())
    return np.stack(maps)


def heat_at(k: Tensor, time: float) -> Tensor:
    """Compute what is left of each frequency after a time, ``exp(-k (wn^2 + wm^2) time)``.

    Args:
        k: Diffusivity of shape (H, W, C).
        time: It multiplies the diffusivity.

    Returns:
        Decay of shape (H, W, C) in [0, 1].

    Raises:
        UserError: If the time is negative, for heat does not flow back, or not finite.
    """
    if not 0 <= time < math.inf:
        raise UserError(f'a time is a number from 0, got {time:g}')
    # Infinity times the time 0 would be NaN.
    return heat_decay(k.clamp(max=torch.finfo(k.dtype).max) * time)


def _mean(decay: Tensor, channel: int | None, weights: Tensor | None) -> Tensor:
    if channel is not None:
        return decay[..., channel : channel + 1]
    if weights is None:
        return decay.mean(-1, keepdim=True)
    total = weights.sum()
    if not total > 0:
        raise UserError('the weights of the channels are all zero: leave them out')
    return (decay @ (weights.to(decay.dtype) / total))[..., None]
