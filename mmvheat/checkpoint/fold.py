"""Fold a checkpoint for inference at one image size."""

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mmvheat.checkpoint.io.reading import read_checkpoint, shown_path
from mmvheat.checkpoint.io.writing import check_target, write_checkpoint
from mmvheat.errors import UserError
from mmvheat.ops import freq_embed_size, heat_decay, predict_diffusivity, resize_freq_embed

from .convert import as_size, rename
from .formats import class_metadata, find_state_dict
from .names import BACKBONE, EMBEDDING, OPERATOR, TO_K_WEIGHT, embedding_name

__all__ = ['fold_file', 'fold_state_dict']


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
    """Hold the layer that predicts the diffusivity to the embedding it is applied to."""
    dim = embed.size(2)
    shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (weight, bias)]
    if shapes != [(dim, dim), (dim,)] or not weight.dtype == bias.dtype == embed.dtype:
        raise UserError(
            f'{name} and its bias are {shapes[0]} of {weight.dtype} and {shapes[1] or "missing"}, '
            f'expected {(dim, dim)} and {(dim,)} of {embed.dtype}, as the frequency embedding: '
            'give a whole checkpoint of one vHeat model'
        )


def fold_file(
    source: str | os.PathLike,
    target: str | os.PathLike,
    size: int | tuple[int, int],
    key: str | None = None,
    force: bool = False,
) -> dict[str, Tensor]:
    """Fold a checkpoint file, for a backbone built with ``inference_form=True``.

    Args:
        source: Published or mmengine checkpoint, a bare state dict, or safetensors.
        target: File to write, `{state_dict, meta}` or safetensors if the name ends so.
        size: Size of the images, N or (H, W).
        key: Entry of the checkpoint to take, see `find_state_dict`.
        force: Whether to replace an existing target.

    Returns:
        The state dict that was written.

    Raises:
        TypeError: If the size is neither N nor (H, W).
        UserError: For whatever else is wrong, in one line; nothing is written then.
    """
    size = as_size(size)
    real = check_target(target, force)
    checkpoint = read_checkpoint(source)
    if real == Path(os.path.realpath(source)):
        raise UserError(
            f'{target} is the source: folding loses what training needs, name another output'
        )
    try:
        found = find_state_dict(checkpoint, key)
        tensors = fold_state_dict(found.tensors, size)
    except UserError as error:
        raise UserError(f'{shown_path(source)}: {error}') from error
    meta = {'source': shown_path(Path(source).name), 'key': found.key, 'folded_for': list(size)}
    meta |= class_metadata(checkpoint)
    write_checkpoint(target, tensors, meta, force)
    return tensors
