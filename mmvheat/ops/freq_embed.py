"""Fit a frequency embedding to a map of another size.

A checkpoint conversion, a checkpoint being loaded and a forward pass all call the one function
here, so the three cannot drift apart.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import has_open_size

__all__ = ['FREQ_EMBED_MODES', 'freq_embed_size', 'resize_freq_embed']

FREQ_EMBED_MODES = ('bicubic', 'pad', 'frequency')


def freq_embed_size(
    image_size: tuple[int, int], stage: int, stem_stride: int = 4
) -> tuple[int, int]:
    """Size of a stage's map, and so of its frequency embedding.

    Args:
        image_size: Height and width of the image in pixels.
        stage: Index of the stage from 0; stage i works at stride ``stem_stride * 2**i``.
        stem_stride: Stride of the first stage.

    Returns:
        Height and width of the map, rounded up.
    """
    stride = stem_stride * 2**stage
    return -(-image_size[0] // stride), -(-image_size[1] // stride)


def _resample(embed: Tensor, length: int, dim: int, ratio: float) -> Tensor:
    """Sample along ``dim`` at the indices of equal spatial frequency, ``n * ratio``."""
    old = embed.size(dim)
    if length == old and ratio == 1:
        return embed
    index = torch.arange(length, dtype=embed.dtype, device=embed.device) * ratio
    index = index.clamp(max=old - 1)
    lower = index.floor()
    weight = (index - lower).reshape([-1 if d == dim else 1 for d in range(embed.dim())])
    lower = lower.long()
    upper = (lower + 1).clamp(max=old - 1)
    return torch.lerp(embed.index_select(dim, lower), embed.index_select(dim, upper), weight)


def resize_freq_embed(
    embed: Tensor,
    size: tuple[int, int],
    mode: str = 'bicubic',
    ratios: tuple[float, float] | None = None,
) -> Tensor:
    """Fit a frequency embedding to another map size.

    Args:
        embed: Frequency embedding of shape (H, W, C), index (0, 0) the constant one.
        size: New height and width.
        mode: How to fit it. ``'bicubic'`` interpolates with half-pixel centres, as the backbone
            does at run time. ``'pad'`` adds zeros at the high-frequency end, as the published
            converter does, and cannot shrink. ``'frequency'`` gives index n what the old grid
            holds at the same spatial frequency, ``n * H_old / H_new``, linearly interpolated;
            frequencies beyond the old grid take its last value.
        ratios: What ``'frequency'`` takes for ``H_old / H_new`` and ``W_old / W_new``: for one
            half of a spectrum, those of the maps.

    Returns:
        Embedding of shape (*size, C) of ``embed``'s dtype; ``embed`` itself if it fits already.

    Raises:
        ValueError: If the mode is unknown, a size is not positive, ``embed`` has not three
            dimensions, or ``'pad'`` would have to shrink.
    """
    if mode not in FREQ_EMBED_MODES:
        raise ValueError(f'mode is one of {", ".join(FREQ_EMBED_MODES)}, got {mode!r}')
    if embed.dim() != 3:
        raise ValueError(f'a frequency embedding has shape (H, W, C), got {tuple(embed.shape)}')
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f'a frequency embedding needs a positive size, got {height} x {width}')
    old_height, old_width = embed.shape[:2]
    # A size that a graph does not know yet always takes the way of another size.
    fits = not has_open_size(size) and (height, width) == (old_height, old_width)
    if fits and ratios is None:
        return embed
    if mode == 'pad':
        if height < old_height or width < old_width:
            raise ValueError(
                f"mode 'pad' cannot shrink an embedding of {old_height} x {old_width} to "
                f"{height} x {width}: use 'bicubic' or 'frequency'"
            )
        return F.pad(embed, (0, 0, 0, width - old_width, 0, height - old_height))
    # Half precision lacks kernels on some devices and would round the sampling weights.
    wide = embed.to(torch.promote_types(embed.dtype, torch.float32))
    if mode == 'bicubic':
        maps = wide.permute(2, 0, 1)[None]
        maps = F.interpolate(maps, size=(height, width), mode='bicubic', align_corners=False)
        resized = maps[0].permute(1, 2, 0)
    else:
        along_height, along_width = ratios or (old_height / height, old_width / width)
        resized = _resample(wide, height, 0, along_height)
        resized = _resample(resized, width, 1, along_width)
    return resized.to(embed.dtype)
