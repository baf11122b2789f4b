"""Effective receptive fields: which pixels of an image the centre of the last map depends on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmvheat.errors import UserError
from mmvheat.extras import needs
from mmvheat.models import VHeat

__all__ = [
    'SHARES',
    'Square',
    'growing_squares',
    'last_map',
    'noise_images',
    'receptive_field',
    'squares',
    'timm_map',
]

SHARES = (0.2, 0.3, 0.5, 0.99)


def receptive_field(
    compute_map: Callable[[Tensor], Tensor], images: Tensor, seed: int = 0
) -> np.ndarray:
    """Measure an effective receptive field (Luo et al., arXiv 1701.04128).

    It is the absolute gradient of the map's centre, summed over the image's channels and averaged
    over images. The centre is the middle cell, or the two middle ones along an even side. Its
    values are added with random signs, drawn anew for each image: their plain sum over channels
    is a constant where an untrained LayerNorm comes last, and its gradient nothing but rounding.

    Args:
        compute_map: Computes a map (B, C, h, w) of images (B, 3, H, W), in eval mode.
        images: Shape (N, 3, H, W), normalised as for the model; they go one by one.
        seed: Of the signs.

    Returns:
        Shares of shape (H, W), float64, not negative; their sum is 1.

    Raises:
        UserError: If the centre depends on no pixel.
    """
    generator = torch.Generator().manual_seed(seed)
    total = np.zeros(tuple(images.shape[2:]))
    for image in images:
        image = image[None].detach().requires_grad_()
        found = compute_map(image)
        centre = found[..., _middle(found.size(2)), _middle(found.size(3))]
        signs = torch.randint(2, centre.shape, generator=generator).to(centre) * 2 - 1
        (gradient,) = torch.autograd.grad((centre * signs).sum(), image)
        total += gradient[0].abs().sum(0).double().cpu().numpy()
    if not total.sum() > 0:
        raise UserError('the centre of the last map depends on no pixel: are the weights all zero?')
    return total / total.sum()


@dataclass(frozen=True)
class Square:
    """The smallest square around the centre that holds a share of a receptive field.

    Attributes:
        share: What it holds at least, in (0, 1].
        side: Its side, in pixels.
        area: Its part of the image's area, in (0, 1].
    """

    share: float
    side: int
    area: float


def squares(field: np.ndarray, shares: Sequence[float] = SHARES) -> list[Square]:
    """Measure how large a receptive field is, as RepLKNet does (arXiv 2203.06717).

    Args:
        field: Shares of shape (H, W), see :func:`receptive_field`.
        shares: What the squares are to hold.

    Returns:
        A square for each of the shares; one that reaches over an edge of the image ends there.
    """
    sides, areas, held = growing_squares(field)
    # All of it may be a rounding less than 1.
    places = np.searchsorted(held, np.multiply(shares, held[-1])).clip(max=len(held) - 1)
    return [
        Square(share, int(sides[i]), float(areas[i]))
        for share, i in zip(shares, places, strict=True)
    ]


def growing_squares(field: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Follow what a receptive field holds from the centre outwards.

    Args:
        field: Shares of shape (H, W), see :func:`receptive_field`.

    Returns:
        Side in pixels, part of the image's area, and share of the field, for every square around
        the centre, the smallest first.
    """
    rows, columns = (np.abs(np.arange(side) - (side - 1) / 2) for side in field.shape)
    distance = np.maximum(rows[:, None], columns[None, :])
    reach, ring = np.unique(distance, return_inverse=True)
    ring = ring.ravel()
    areas = np.cumsum(np.bincount(ring)) / field.size
    return (2 * reach + 1).astype(int), areas, np.cumsum(np.bincount(ring, field.ravel()))


def last_map(backbone: VHeat) -> Callable[[Tensor], Tensor]:
    """Make a function of images (B, 3, H, W) that gives the last stage's map (B, C, h, w).

    It is the map before the output norm, as of :func:`timm_map`.
    """
    last = len(backbone.layers) - 1
    return lambda images: backbone.raw_maps(images, [last])[last].permute(0, 3, 1, 2)


def timm_map(
    name: str,
    image_size: tuple[int, int],
    pretrained: bool = False,
    device: torch.device | str = 'cpu',
) -> Callable[[Tensor], Tensor]:
    """Make a function of images that gives the last map of a model of timm.

    Args:
        name: Its name in timm, such as ``'convnext_tiny'``.
        image_size: Height and width of the images.
        pretrained: Whether to take timm's weights, which it downloads. Else they are random.
        device: Where it is to run.

    Returns:
        A function of images (B, 3, H, W) to the last map (B, C, h, w), before any norm behind it.

    Raises:
        UserError: If timm is not installed, has no such model, or cannot get its weights.
    """
    timm = needs('timm', 'timm')
    if not timm.is_model(name):
        raise UserError(f'timm {timm.__version__} has no model {name}: see timm.list_models()')
    options = {'pretrained': pretrained, 'num_classes': 0}
    try:
        try:  # Models with windows or position embeddings are made for one size.
            model = timm.create_model(name, img_size=image_size, **options)
        except TypeError:
            model = timm.create_model(name, **options)
    except Exception as error:  # A download may raise anything.
        raise UserError(f'timm cannot make {name}: {" ".join(str(error).split())}') from error
    model.to(device).eval().requires_grad_(False)
    layout = {'output_fmt': 'NCHW', 'intermediates_only': True}
    return lambda images: model.forward_intermediates(images, indices=1, **layout)[0]


def noise_images(count: int, image_size: tuple[int, int], seed: int = 0) -> Tensor:
    """Draw images of normal noise, as networks see them once they are normalised.

    Args:
        count: How many.
        image_size: Height and width.
        seed: Of the noise.

    Returns:
        Images of shape (count, 3, H, W).
    """
    return torch.randn(count, 3, *image_size, generator=torch.Generator().manual_seed(seed))


def _middle(side: int) -> slice:
    return slice((side - 1) // 2, side // 2 + 1)
