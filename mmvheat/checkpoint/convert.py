"""Turn a vHeat state dict into one that a config's `init_cfg` or `load_from` takes."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor

from mmvheat.ops import freq_embed_size, resize_freq_embed

from .formats import BACKBONE, backbone_prefix, mmpretrain_name
from .report import ConversionReport

__all__ = ['MAX_SIDE', 'TASKS', 'as_size', 'convert_state_dict', 'rename_keys']

TASKS = ('downstream', 'classification')

# Larger embeddings are surely a slip of the finger, and would fill the memory.
MAX_SIDE = 4096

Size = tuple[int, int]


def as_size(size: int | tuple[int, int]) -> Size:
    """Complete an image size.

    Args:
        size: One side of a square or (height, width), in pixels.

    Returns:
        Height and width.

    Raises:
        TypeError: If it is neither.
        ValueError: If a side is not in 1..4096.
    """
    sides = (size, size) if isinstance(size, int) else size
    is_pair = isinstance(sides, (tuple, list)) and len(sides) == 2
    if not is_pair or not all(type(side) is int for side in sides):
        raise TypeError(f'a size is one whole number or a height and a width, got {size!r}')
    if not all(1 <= side <= MAX_SIDE for side in sides):
        raise ValueError(f'a size has sides from 1 to {MAX_SIDE} pixels, got {_times(sides)}')
    return tuple(sides)


def convert_state_dict(
    tensors: Mapping[str, Tensor],
    source_size: int | tuple[int, int],
    target_size: int | tuple[int, int],
    mode: str = 'bicubic',
    task: str = 'downstream',
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Rename the keys of a vHeat model and fit its frequency embeddings to another image size.

    Args:
        tensors: State dict of a vHeat backbone, classifier, detector or segmentor, with the
            published names or mmengine's, under any prefix. It is left as it is.
        source_size: Image size the embeddings were made for, N or (H, W); checked against them.
        target_size: Image size to fit them to, N or (H, W).
        mode: How to resize, see `mmvheat.ops.resize_freq_embed`.
        task: 'downstream' drops a classifier and the norm before it, which a detector or
            segmentor starts anew; the output norms, necks and heads of a detector or segmentor
            stay. 'classification' keeps the classifier as mmpretrain names it.

    Returns:
        The new state dict, its backbone under 'backbone.' and dtypes kept, and what was done.
        Tensors that were not resized share their memory with the source's.

    Raises:
        TypeError: If a size is neither N nor (H, W).
        ValueError: If this is no vHeat model that can be converted, a size or the task is wrong,
            `source_size` contradicts the embeddings, or 'pad' would have to shrink them.
    """
    source_size, target_size = as_size(source_size), as_size(target_size)
    if task not in TASKS:
        raise ValueError(f'task is one of {", ".join(TASKS)}, got {task!r}')
    prefix = backbone_prefix(tensors)
    embeds = _frequency_embeddings(tensors, prefix)
    _check_size([tuple(embed.shape[:2]) for embed in embeds], source_size)
    names, dropped = _new_names(tensors, prefix, last_stage=len(embeds) - 1, task=task)

    converted = {new: tensors[old].detach() for old, new in names.items()}
    resized = {}
    for stage, embed in enumerate(embeds):
        name = f'{BACKBONE}freq_embed.{stage}'
        try:
            fitted = resize_freq_embed(embed.detach(), freq_embed_size(target_size, stage), mode)
        except ValueError as error:
            raise ValueError(
                f'{name} from {_times(source_size)} to {_times(target_size)}: {error}'
            ) from error
        if fitted.shape != embed.shape:
            converted[name] = fitted.contiguous()
            resized[name] = (tuple(embed.shape[:2]), tuple(fitted.shape[:2]))
    return converted, ConversionReport(names, resized, dropped)


def rename_keys(
    tensors: Mapping[str, Tensor], prefix: str, task: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Decide on every tensor of a vHeat model, sizes aside.

    Args:
        tensors: State dict of the model.
        prefix: What `backbone_prefix` says about it.
        task: 'downstream' or 'classification', see `convert_state_dict`.

    Returns:
        The new names by the old ones, and why the others are dropped.

    Raises:
        ValueError: If the model is incomplete, or two tensors would get one name.
    """
    embeds = _frequency_embeddings(tensors, prefix)
    return _new_names(tensors, prefix, last_stage=len(embeds) - 1, task=task)


def _frequency_embeddings(tensors: Mapping[str, Tensor], prefix: str) -> list[Tensor]:
    """Collect the embeddings of all stages and check that the layers fit them."""
    prefix_pattern = re.escape(prefix)
    embed_name = re.compile(rf'{prefix_pattern}freq_embed\.(0|[1-9]\d*)')
    layer_name = re.compile(rf'{prefix_pattern}layers\.(\d+)\..*')
    stages = sorted(int(match[1]) for match in map(embed_name.fullmatch, tensors) if match)
    layers = sorted({int(match[1]) for match in map(layer_name.fullmatch, tensors) if match})
    if stages != layers or stages != list(range(len(stages))):
        raise ValueError(
            f'frequency embeddings of stages {stages}, but layers of stages {layers}: '
            'the checkpoint is incomplete; save it again'
        )
    embeds = [tensors[f'{prefix}freq_embed.{stage}'] for stage in stages]
    for stage, embed in enumerate(embeds):
        if embed.dim() != 3 or not embed.is_floating_point():
            raise ValueError(
                f'{prefix}freq_embed.{stage} is {tuple(embed.shape)} of {embed.dtype}, expected '
                'floating-point (H, W, C): give a checkpoint of a vHeat model'
            )
        consumer = re.compile(rf'{prefix_pattern}layers\.{stage}\.\d+\.op\.to_k\.0\.weight')
        for name in filter(consumer.fullmatch, tensors):
            if tensors[name].shape[1:] != embed.shape[2:]:
                raise ValueError(
                    f'{name} is {tuple(tensors[name].shape)}, but {prefix}freq_embed.'
                    f'{stage} has {embed.shape[2]} channels: give a checkpoint of one vHeat model'
                )
    return embeds


def _check_size(found: list[Size], source_size: Size) -> None:
    """Compare the embeddings with those of the image size that was claimed."""

    def made_for(size: Size) -> list[Size]:
        return [freq_embed_size(size, stage) for stage in range(len(found))]

    expected = made_for(source_size)
    if found == expected:
        return
    stage = next(i for i, size in enumerate(found) if size != expected[i])
    guess = (4 * found[0][0], 4 * found[0][1])
    hint = f'it fits --pt_size {guess[0]} {guess[1]}'
    raise ValueError(
        f'source size {_times(source_size)} contradicts freq_embed.{stage}, which is '
        f'{_times(found[stage])}, not {_times(expected[stage])}; '
        + (hint if made_for(guess) == found else 'no image size fits all its embeddings')
    )


def _new_names(
    tensors: Iterable[str], prefix: str, last_stage: int, task: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Decide on every tensor: the new names by the old ones, and why others are dropped."""
    names = {old: mmpretrain_name(old, prefix, last_stage) for old in tensors}
    dropped = {old: 'not a weight of the model' for old, new in names.items() if new is None}

    def named(start: str) -> list[str]:
        return [old for old, new in names.items() if new and new.startswith(start)]

    head, norm = named('head.'), named(f'{BACKBONE}outnorm{last_stage}.')
    # A published classifier brings a norm of its own, beside which a backbone's may stand.
    own_norm = [old for old in norm if 'classifier.' in old]
    if task == 'classification':
        if not head:
            raise ValueError(
                'no classifier (classifier.* or head.*) to keep: use --task downstream'
            )
        if own_norm:
            rivals = (old for old in norm if old not in own_norm)
            dropped.update(dict.fromkeys(rivals, "the classifier's norm takes its place"))
    elif head:
        dropped.update(dict.fromkeys(own_norm or norm, 'norm of the classifier'))
        dropped.update(dict.fromkeys(head, 'classifier'))
    names = {old: new for old, new in names.items() if old not in dropped}
    for new, count in Counter(names.values()).items():
        if count > 1:
            raise ValueError(f'{count} tensors would be called {new}: save the model with one')
    return names, dropped


def _times(size: Size) -> str:
    return ' x '.join(map(str, size))
