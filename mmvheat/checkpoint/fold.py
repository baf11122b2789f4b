"""Fold a checkpoint for inference at one image size."""

import re
from collections.abc import Mapping

from torch import Tensor

from mmvheat.errors import UserError
from mmvheat.ops import (
    freq_embed_size,
    given_diffusivity,
    heat_decay,
    predict_diffusivity,
    resize_freq_embed,
)

from .convert import as_size, rename
from .names import (
    BACKBONE,
    EMBEDDING,
    MIXER,
    OPERATOR,
    TO_K_WEIGHT,
    embedding_name,
    find_variant,
)

__all__ = ['check_linear', 'fold_state_dict']


def fold_state_dict(
    tensors: Mapping[str, Tensor], size: int | tuple[int, int]
) -> dict[str, Tensor]:
    """Replace what the decays follow from by the decays for one image size.

    Args:
        tensors: State dict of a vHeat backbone, classifier, detector or segmentor, with the
            published names or mmengine's, under any prefix. It is left as it is.
        size: Size of the images, N or (H, W).

    Returns:
        The new state dict with mmengine's names, ``op.k_exp`` of shape (H, W, C) in the place of
        each ``op.to_k`` and of the embeddings, or of a variant's own tensor; everything else
        shares its memory.

    Raises:
        TypeError: If the size is neither N nor (H, W).
        UserError: If this is no vHeat model in the training form, one whose operator has no
            decays, or the size is out of range.
    """
    size = as_size(size)
    names, _ = rename(tensors)
    state = {new: tensors[old].detach() for old, new in names.items()}
    inner = {n.removeprefix(BACKBONE): t for n, t in state.items() if n.startswith(BACKBONE)}
    variant = find_variant(inner, folded=False)
    if variant.operator in ('global_filter', 'identity'):
        raise UserError(
            f'its operator is {variant.operator}, which has no decays to fold: use it as it is'
        )

    def map_size(match: re.Match) -> tuple[int, int]:
        return freq_embed_size(size, int(match[1]), variant.patch_size)

    folded: dict[str, Tensor] = {}
    operators: set[str] = set()
    for name, tensor in state.items():
        own = name.removeprefix(BACKBONE)
        operator = f'{name.partition(".op.")[0]}.op.'
        if match := TO_K_WEIGHT.fullmatch(own):
            embed = state[f'{BACKBONE}{embedding_name(int(match[1]))}']
            bias = state.get(f'{operator}to_k.0.bias')
            check_linear(name, tensor, bias, embed)
            embed = resize_freq_embed(embed, map_size(match))
            folded[f'{operator}k_exp'] = heat_decay(predict_diffusivity(embed, tensor, bias))
        elif match := MIXER.fullmatch(own):
            norm = state.get(f'{operator}out_norm.weight')
            _check_mixer(name, tensor, norm)
            folded[f'{operator}k_exp'] = _spectrum(match[3], tensor, map_size(match), len(norm))
        elif '.op.to_k.' not in own and not EMBEDDING.fullmatch(own):
            folded[name] = tensor
        if OPERATOR.fullmatch(own):
            operators.add(f'{operator}k_exp')
    if missing := operators - folded.keys():
        lacking = 'to_k.0.weight' if variant.mixer is None else f'mixer.{variant.mixer}'
        raise UserError(
            f'{min(missing).removesuffix("k_exp")}{lacking} is missing: '
            'give a whole checkpoint of one vHeat model'
        )
    return folded


def check_linear(name: str, weight: Tensor, bias: Tensor | None, embed: Tensor) -> None:
    """Check that the layer that predicts the diffusivity fits its embedding.

    Raises:
        UserError: If it does not.
    """
    dim = embed.size(2)
    shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (weight, bias)]
    if shapes != [(dim, dim), (dim,)] or not weight.dtype == bias.dtype == embed.dtype:
        raise UserError(
            f'{name} and its bias are {shapes[0]} of {weight.dtype} and {shapes[1] or "missing"}, '
            f'expected {(dim, dim)} and {(dim,)} of {embed.dtype}, as the frequency embedding: '
            'give a whole checkpoint of one vHeat model'
        )


def _check_mixer(name: str, tensor: Tensor, norm: Tensor | None) -> None:
    """Check that what a variant has for a block has the block's channels."""
    channels = None if norm is None or norm.dim() != 1 else len(norm)
    if (
        channels is None
        or tensor.dim() not in (0, 1, 3)
        or tensor.shape[-1:] not in ((), (channels,))
    ):
        raise UserError(
            f'{name} is {tuple(tensor.shape)} in a block of {channels or "unknown"} channels: '
            'give a whole checkpoint of one vHeat model'
        )


def _spectrum(kind: str, tensor: Tensor, size: tuple[int, int], channels: int) -> Tensor:
    """Compute what a variant multiplies frequencies by, shape (*size, channels)."""
    if kind == 'dct_filter':
        return resize_freq_embed(tensor, size)
    return heat_decay(given_diffusivity(tensor, size, channels))
