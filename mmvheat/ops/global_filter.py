"""A filter of all frequencies of the real Fourier transform: GFNet's (arXiv 2107.00645).

It is what vHeat's paper compares heat conduction with: a circular convolution whose kernel is as
large as the map, one for each channel.
"""

import torch
from torch import Tensor

from .dispatch import compute_dtype, without_autocast
from .freq_embed import resize_freq_embed

__all__ = ['filter_globally', 'resize_global_filter']


def filter_globally(x: Tensor, spectrum: Tensor) -> Tensor:
    """Multiply the real Fourier transform of a map by a complex spectrum.

    Args:
        x: Map of shape (B, H, W, C), floating point.
        spectrum: Real and imaginary parts, shape (H, W // 2 + 1, C, 2), rows in the order of
            :func:`torch.fft.rfft2`: of the circular convolution with ``irfft2`` of it.

    Returns:
        Map of shape (B, H, W, C) of ``x``'s dtype (under autocast, of autocast's); computed in
        float32 at least, for few devices have Fourier transforms in half precision.

    Raises:
        ValueError: If the shapes do not fit each other.

    Example:
        >>> x = torch.randn(1, 6, 9, 4)
        >>> ones = torch.tensor([1.0, 0.0]).expand(6, 5, 4, 2)
        >>> torch.allclose(filter_globally(x, ones), x, atol=1e-5)
        True
    """
    if x.dim() != 4 or spectrum.shape != (x.size(1), x.size(2) // 2 + 1, x.size(3), 2):
        raise ValueError(
            'a global filter wants x (B, H, W, C) and a spectrum (H, W // 2 + 1, C, 2), got '
            f'{tuple(x.shape)} and {tuple(spectrum.shape)}'
        )
    out_dtype, dtype = compute_dtype(x), torch.promote_types(x.dtype, torch.float32)
    with without_autocast(x.device.type):
        coefficients = torch.fft.rfft2(x.to(dtype), dim=(1, 2))
        coefficients = coefficients * torch.view_as_complex(spectrum.to(dtype).contiguous())
        return torch.fft.irfft2(coefficients, s=x.shape[1:3], dim=(1, 2)).to(out_dtype)


def resize_global_filter(spectrum: Tensor, size: tuple[int, int], mode: str = 'bicubic') -> Tensor:
    """Fit the spectrum of a global filter to another map size.

    Rows of positive and of negative frequencies are fitted apart, each from the constant to the
    highest frequency, as a frequency embedding is: see :func:`.freq_embed.resize_freq_embed`.

    Args:
        spectrum: Shape (H, W // 2 + 1, C, 2).
        size: New height and width of the map.
        mode: How to fit it, as for a frequency embedding. For ``'frequency'`` the old spectrum is
            taken to be a square map's where it can be, else one of even width.

    Returns:
        Spectrum for the new size, of the same dtype; ``spectrum`` itself if it fits already.

    Raises:
        ValueError: As for a frequency embedding.
    """
    (old_height, columns, channels, _), (height, width) = spectrum.shape, size
    if (old_height, columns) == (height, width // 2 + 1):
        return spectrum
    old_width = old_height if old_height // 2 + 1 == columns else max(1, 2 * (columns - 1))
    ratios = old_height / height, old_width / width
    flat = spectrum.flatten(2)
    # Rows 0, 1, ..., H // 2, and the others from the end: 0, -1, ..., -((H - 1) // 2).
    others = [0, *range(old_height - 1, old_height // 2, -1)]
    fitted = []
    for rows, count in (
        (flat[: old_height // 2 + 1], height // 2 + 1),
        (flat[others], (height - 1) // 2 + 1),
    ):
        fitted.append(resize_freq_embed(rows, (count, width // 2 + 1), mode, ratios))
    positive, negative = fitted
    return torch.cat([positive, negative[1:].flip(0)]).unflatten(2, (channels, 2))
