"""Find the heat operators of a model, what they conduct with, and what they conduct."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmvheat.errors import UserError
from mmvheat.layers import HeatBlock
from mmvheat.models import VHeat
from mmvheat.ops import resize_freq_embed
from mmvheat.ops.heat import squared_frequencies

__all__ = [
    'block_diffusivity',
    'check_stage',
    'constant_diffusivity',
    'find_backbone',
    'find_block',
    'map_cell',
    'operator_input',
    'stage_maps',
]


def find_backbone(model: nn.Module) -> VHeat:
    """Find the vHeat in a classifier, detector, segmentor, or the backbone itself.

    Raises:
        UserError: If there is none.
    """
    for module in model.modules():
        if isinstance(module, VHeat):
            return module
    raise UserError(
        f'{type(model).__name__} has no vHeat backbone: give a config whose backbone is '
        "type='mmvheat.VHeat'"
    )


def find_block(backbone: VHeat, stage: int, block: int = -1) -> HeatBlock:
    """Find a block.

    Args:
        backbone: The backbone.
        stage: Its stage, from 0; negative ones count from the last.
        block: Its place in the stage, from 0; negative ones count from the last.

    Raises:
        UserError: If there is no such stage or block.
    """
    check_stage(backbone, stage)
    blocks = list(backbone.layers[stage].blocks())
    _check_index('block', block, len(blocks), f'stage {stage % len(backbone.layers)}')
    return blocks[block]


def check_stage(backbone: VHeat, stage: int) -> None:
    """Check that a backbone has a stage.

    Raises:
        UserError: If it has not.
    """
    _check_index('stage', stage, len(backbone.layers), 'the backbone')


def block_diffusivity(
    backbone: VHeat,
    stage: int,
    block: int = -1,
    image_size: tuple[int, int] | None = None,
    mode: str = 'bicubic',
) -> Tensor:
    """Compute the diffusivity times time of a block, for images of any size.

    A folded backbone keeps the decay alone; k follows from it, but for ``k[0, 0]``, which has no
    effect and is 0 here, and where nothing is left of a frequency: there k is infinite.

    Args:
        backbone: The backbone.
        stage: The block's stage, from 0; negative ones count from the last.
        block: The block in its stage, likewise.
        image_size: Height and width of the images in pixels; None for those that the backbone's
            frequency embeddings are made for.
        mode: How the embedding is fitted to another size, see
            :func:`mmvheat.ops.resize_freq_embed`.

    Returns:
        Diffusivity of shape (H, W, C), in pixels of the map squared, not negative.

    Raises:
        UserError: If there is no such block, its operator is not heat, the backbone is folded for
            another size, or the mode cannot fit the embedding.
    """
    operator = find_block(backbone, stage, block).op
    stage %= len(backbone.layers)
    size = image_size or backbone.folded_for or backbone.img_size
    if backbone.arch.operator != 'heat':
        raise UserError(
            f'operator={backbone.arch.operator!r} has no diffusivity: give a model whose operator '
            'is heat'
        )
    with torch.no_grad():
        if backbone.folded_for is None:
            target = backbone.map_size(size, stage)
            try:
                if backbone.freq_embed is None:
                    return operator.mixer.diffusivity(target, mode)
                embed = resize_freq_embed(backbone.freq_embed[stage], target, mode)
            except ValueError as error:
                raise UserError(str(error)) from error
            return operator.diffusivity(embed)
        _check_size(backbone, size)
        decay = operator.k_exp.detach()
        frequencies = squared_frequencies(decay.shape[:2], decay)[..., None]
        # -log(1) / 0 would be NaN at the constant frequency.
        return decay.log().neg().clamp(min=0) / frequencies.clamp(min=torch.finfo(decay.dtype).tiny)


def constant_diffusivity(size: tuple[int, int], k: float, channels: int = 1) -> Tensor:
    """Make the diffusivity of an even plate: the same k for all frequencies and channels.

    Args:
        size: Height and width of the map.
        k: Diffusivity times time, in pixels of the map squared.
        channels: Number of channels.

    Returns:
        Diffusivity of shape (H, W, channels), float32.

    Raises:
        UserError: If k is negative or not finite.
    """
    if not 0 <= k < math.inf:
        raise UserError(f'a diffusivity is a number from 0, got {k:g}')
    return torch.full((*size, channels), float(k))


def map_cell(
    pixel: tuple[int, int], image_size: tuple[int, int], map_size: tuple[int, int]
) -> tuple[int, int]:
    """Find the cell of a map that a pixel of the image lies in.

    Args:
        pixel: Row and column in the image, from 0.
        image_size: Its height and width.
        map_size: Height and width of the map.

    Raises:
        UserError: If the pixel is outside of the image.
    """
    if not all(0 <= place < side for place, side in zip(pixel, image_size, strict=True)):
        raise UserError(
            f'pixel {pixel[0]} {pixel[1]} (row, column) is outside of the image of '
            f'{image_size[0]} x {image_size[1]}: rows are 0 to {image_size[0] - 1}, columns 0 to '
            f'{image_size[1] - 1}'
        )
    sides = zip(pixel, image_size, map_size, strict=True)
    row, column = (place * cells // side for place, side, cells in sides)
    return row, column


def operator_input(backbone: VHeat, images: Tensor, stage: int, block: int = -1) -> Tensor:
    """Record the heat u that a block conducts for images, before conduction.

    Args:
        backbone: The backbone, in eval mode.
        images: Shape (B, 3, H, W), normalised as for the model.
        stage: The block's stage, from 0; negative ones count from the last.
        block: The block in its stage, likewise.

    Returns:
        Map of shape (B, H', W', C).

    Raises:
        UserError: If there is no such block, or the backbone is folded for another size.
    """
    operator = find_block(backbone, stage, block).op
    found = []
    hook = operator.linear.register_forward_hook(lambda *call: found.append(call[-1]))
    try:
        _run(backbone, images, [stage % len(backbone.layers)])
    finally:
        hook.remove()
    return found[0].chunk(2, dim=-1)[0]


def stage_maps(backbone: VHeat, images: Tensor) -> list[Tensor]:
    """Compute the maps of all stages as they are, before any output norm.

    Args:
        backbone: The backbone, in eval mode.
        images: Shape (B, 3, H, W), normalised as for the model.

    Returns:
        A map for each stage i, of shape (B, ceil(H / 2^(2+i)), ceil(W / 2^(2+i)), dims[i]).

    Raises:
        UserError: If the backbone is folded for another size.
    """
    maps = _run(backbone, images, range(len(backbone.layers)))
    return [maps[i] for i in sorted(maps)]


def _run(backbone: VHeat, images: Tensor, stages: Sequence[int]) -> dict[int, Tensor]:
    """Run the backbone up to the last of the stages."""
    _check_size(backbone, tuple(images.shape[2:]))
    with torch.no_grad():
        return backbone.raw_maps(images, stages)


def _check_size(backbone: VHeat, size: tuple[int, int]) -> None:
    folded = backbone.folded_for
    if folded not in (None, size):
        raise UserError(
            f'the backbone is folded for images of {folded[0]} x {folded[1]}, got {size[0]} x '
            f'{size[1]}: use this size, or the training form, which takes any'
        )


def _check_index(what: str, index: int, count: int, owner: str) -> None:
    if not -count <= index < count:
        raise UserError(f'{owner} has no {what} {index}: it has {what} 0 to {count - 1}')
