"""The tensors that are made for one image size: frequency embeddings, and what variants learn."""

import torch
from torch import Size, Tensor

from mmvheat.errors import UserError
from mmvheat.ops import resize_freq_embed, resize_global_filter

from .names import EMBEDDING, MIXER, find, shown

__all__ = [
    'check_spectrum',
    'is_spectrum',
    'made_for',
    'map_widths',
    'resize_spectrum',
    'spectrum_size',
]

# What can be interpolated in.
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
Shape = tuple[int, ...] | Size


def is_spectrum(name: str, shape: Shape) -> bool:
    """Whether a tensor has a value for each frequency of a map of one size.

    Args:
        name: Its name, whatever stands before the backbone's.
        shape: Its shape: of a variant's diffusivity only that of ``'learned'`` has a size.
    """
    if find(EMBEDDING, name):
        return True
    mixer = find(MIXER, name)
    return mixer is not None and (mixer[3] != 'k' or len(shape) > 1)


def is_global_filter(name: str) -> bool:
    """Whether a tensor of this name is the spectrum of a Fourier transform, which has half of W."""
    mixer = find(MIXER, name)
    return mixer is not None and mixer[3] == 'global_filter'


def check_spectrum(name: str, tensor: Tensor) -> None:
    """Check that a spectrum can be resized.

    Raises:
        UserError: If it has another number of dimensions, no elements, or no floating dtype.
    """
    wanted = '(H, W // 2 + 1, C, 2)' if is_global_filter(name) else '(H, W, C)'
    dimensions = 4 if is_global_filter(name) else 3
    of_pairs = dimensions == 3 or tensor.shape[-1:] == (2,)
    right = tensor.dim() == dimensions and of_pairs and tensor.dtype in _DTYPES
    if not right or not tensor.numel():
        raise UserError(
            f'{shown(name)} is {tuple(tensor.shape)} of {tensor.dtype}, expected '
            f'floating-point {wanted}: give a checkpoint of a vHeat model'
        )


def spectrum_size(name: str, shape: Shape) -> tuple[int, int]:
    """Tell the size of the map that a spectrum is made for.

    Half of a Fourier spectrum does not tell an odd width from the even one below it: it is taken
    to be a square's where it can be, else even.
    """
    height, width = shape[:2]
    if is_global_filter(name):
        width = height if height // 2 + 1 == width else max(1, 2 * (width - 1))
    return height, width


def map_widths(name: str, shape: Shape) -> tuple[int, int]:
    """Tell the least and the largest width of the maps that a spectrum may be made for."""
    width = shape[1]
    return (max(1, 2 * (width - 1)), 2 * width - 1) if is_global_filter(name) else (width, width)


def made_for(name: str, shape: Shape, size: tuple[int, int]) -> bool:
    """Whether a spectrum is made for a map of this height and width."""
    width = size[1] // 2 + 1 if is_global_filter(name) else size[1]
    return tuple(shape[:2]) == (size[0], width)


def resize_spectrum(
    name: str, tensor: Tensor, size: tuple[int, int], mode: str = 'bicubic'
) -> Tensor:
    """Fit a spectrum to a map of another size, see :func:`mmvheat.ops.resize_freq_embed`."""
    resize = resize_global_filter if is_global_filter(name) else resize_freq_embed
    return resize(tensor, size, mode)
