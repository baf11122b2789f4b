"""Fold a checkpoint for inference at one image size."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mmvheat.ops import freq_embed_size, heat_decay, predict_diffusivity, resize_freq_embed

from .convert import as_size, rename_keys
from .formats import BACKBONE, backbone_prefix, find_state_dict
from .reading import read_checkpoint
from .writing import check_target, write_checkpoint

__all__ = ['fold_file', 'fold_state_dict']

_EMBEDDING = re.compile(rf'{re.escape(BACKBONE)}freq_embed\.\d+')
_TO_K = re.compile(rf'({re.escape(BACKBONE)}layers\.(\d+)\.\d+\.op\.)to_k\.0\.weight')


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
        ValueError: If this is no vHeat model in the training form, or the size is out of range.
    """
    size = as_size(size)
    prefix = backbone_prefix(tensors)
    owner = prefix.removesuffix(BACKBONE)
    has_classifier = any(
        name.startswith((f'{owner}classifier.', f'{owner}head.')) for name in tensors
    )
    task = 'classification' if has_classifier else 'downstream'
    names, _ = rename_keys(tensors, prefix, task)
    state = {new: tensors[old].detach() for old, new in names.items()}
    folded = {}
    for name, tensor in state.items():
        if match := _TO_K.fullmatch(name):
            stage = int(match[2])
            embed = state[f'{BACKBONE}freq_embed.{stage}']
            embed = resize_freq_embed(embed, freq_embed_size(size, stage))
            k = predict_diffusivity(embed, tensor, state[f'{match[1]}to_k.0.bias'])
            folded[f'{match[1]}k_exp'] = heat_decay(k)
        elif '.op.to_k.' not in name and not _EMBEDDING.fullmatch(name):
            folded[name] = tensor
    return folded


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
        ValueError: For whatever else is wrong, in one line; nothing is written then.
    """
    size = as_size(size)
    real = check_target(target, force)
    if real == Path(os.path.realpath(source)):
        raise ValueError(
            f'{target} is the source: folding loses what training needs, name another output'
        )
    checkpoint = read_checkpoint(source)
    try:
        found = find_state_dict(checkpoint, key)
        tensors = fold_state_dict(found.tensors, size)
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from error
    # What a test reads off a checkpoint, such as the names of the classes.
    meta = dict(checkpoint.get('meta', {})) if found.key == 'state_dict' else {}
    meta = {'dataset_meta': meta['dataset_meta']} if 'dataset_meta' in meta else {}
    meta |= {'source': Path(source).name, 'key': found.key, 'folded_for': list(size)}
    write_checkpoint(target, tensors, meta, force)
    return tensors
