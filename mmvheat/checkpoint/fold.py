"""Fold a checkpoint for inference at one image size."""

from collections.abc import Mapping

from torch import Tensor

from mmvheat.errors import UserError
from mmvheat.ops import freq_embed_size, heat_decay, predict_diffusivity, resize_freq_embed

from .convert import as_size, rename
from .names import BACKBONE, EMBEDDING, OPERATOR, TO_K_WEIGHT, embedding_name

__all__ = ['fold_state_dict']


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
        each ``op.to_k`` and of the embeddings; everything else shares its memory.

    Raises:
        TypeError: If the size is neither N nor (H, W).
        UserError: If this is no vHeat model in the training form, or the size is out of range.
    """
    size = as_size(size)
    names, _ = rename(tensors)
    state = {new: tensors[old].detach() for old, new in names.items()}
    folded: dict[str, Tensor] = {}
    operators: set[str] = set()
    for name, tensor in state.items():
        inner = name.removeprefix(BACKBONE)
        if match := TO_K_WEIGHT.fullmatch(inner):
            stage, operator = int(match[1]), name.removesuffix('to_k.0.weight')
            embed = state[f'{BACKBONE}{embedding_name(stage)}']
            bias = state.get(f'{operator}to_k.0.bias')
            _check_linear(name, tensor, bias, embed)
            embed = resize_freq_embed(embed, freq_embed_size(size, stage))
            folded[f'{operator}k_exp'] = heat_decay(predict_diffusivity(embed, tensor, bias))
        elif '.op.to_k.' not in inner and not EMBEDDING.fullmatch(inner):
            folded[name] = tensor
        if OPERATOR.fullmatch(inner):
            operators.add(f'{name.partition(".op.")[0]}.op.k_exp')
    if missing := operators - folded.keys():
        raise UserError(
            f'{min(missing).removesuffix("k_exp")}to_k.0.weight is missing: '
            'give a whole checkpoint of one vHeat model'
        )
    return folded


def _check_linear(name: str, weight: Tensor, bias: Tensor | None, embed: Tensor) -> None:
    """Check that the layer that predicts the diffusivity fits its embedding."""
    dim = embed.size(2)
    shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (weight, bias)]
    if shapes != [(dim, dim), (dim,)] or not weight.dtype == bias.dtype == embed.dtype:
        raise UserError(
            f'{name} and its bias are {shapes[0]} of {weight.dtype} and {shapes[1] or "missing"}, '
            f'expected {(dim, dim)} and {(dim,)} of {embed.dtype}, as the frequency embedding: '
            'give a whole checkpoint of one vHeat model'
        )
