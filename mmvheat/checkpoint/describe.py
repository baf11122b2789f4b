"""Say what a checkpoint is, from its names and shapes alone; no model is built."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Size, Tensor

from mmvheat.errors import UserError

from .formats import RESUMABLE_ENTRIES, SourceState, class_names, find_state_dict, metadata
from .names import (
    BACKBONE,
    EMBEDDING,
    FOLDED_DECAY,
    INPUT_CONV,
    LAYER_SCALE,
    OPERATOR,
    OUTPUT_NORM,
    STATISTICS,
    backbone_prefix,
    backbone_shapes,
    count_classes,
    embedding_name,
    find,
    find_variant,
    model_kind,
    shown,
    unwrapped_names,
)
from .spectra import map_widths

__all__ = ['Backbone', 'Description', 'arch_in_words', 'describe_checkpoint']

Range = tuple[int, int]


@dataclass(frozen=True)
class Backbone:
    """A vHeat backbone as its names and shapes tell it.

    Where a branch is normalised, its input or its output, changes neither: ``post_norm`` has to
    come from elsewhere.

    Attributes:
        depths: Blocks of every stage.
        dims: Channels of every stage.
        mlp_ratios: Hidden channels of every stage's MLPs over its channels.
        layer_scale: Whether blocks have learned scales.
        in_channels: Channels of the images.
        folded: Whether it is folded for inference.
        operator: Which variant it is, as of ``mmvheat.models.VHeatArch``, like the three that
            follow; of a folded one heat and a filter of the cosine transform look alike.
        diffusivity: Where its diffusivity comes from.
        dwconv: Whether it has depth-wise convolutions.
        patch_size: Stride of its stem.
        heights: Least and largest height of the images that its embeddings, or folded decays,
            are made for: maps are rounded up, so several sizes give the same ones. None if no
            size fits all stages, or a variant has nothing that is made for one.
        widths: The same for the width.
        output_norms: Stages that have an output norm.
        missing: Names that such a backbone has and the checkpoint lacks.
        misshaped: Shapes in the checkpoint and as they should be, by name.
        unknown: Names that no such backbone has.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    mlp_ratios: tuple[float, ...]
    layer_scale: bool
    in_channels: int
    folded: bool
    operator: str
    diffusivity: str
    dwconv: bool
    patch_size: int
    heights: Range | None
    widths: Range | None
    output_norms: tuple[int, ...]
    missing: tuple[str, ...]
    misshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    unknown: tuple[str, ...]

    @property
    def is_sized(self) -> bool:
        """Whether it has anything that is made for one image size."""
        unsized = self.diffusivity in ('shared', 'fixed') or self.operator == 'identity'
        return self.folded or not unsized

    @property
    def image_size(self) -> tuple[int, int] | None:
        """The largest image size that its embeddings are made for, as (height, width)."""
        return (self.heights[1], self.widths[1]) if self.heights and self.widths else None


@dataclass(frozen=True)
class Description:
    """What a checkpoint is.

    Attributes:
        origin: Who wrote it, and in what form.
        entries: What stands at the top of the file, in a few words each.
        key: Entry that was looked at; empty if the file is the state dict itself.
        prefix: What stands before the backbone's names, wrappers aside.
        wrappers: Whether names carry what wrappers for training put there.
        kind: Kind of the model by its heads, see `model_kind`.
        num_classes: Classes that the head tells apart, None if no layer tells.
        class_names: Names of the classes, where recorded.
        dtypes: Number of tensors of each dtype.
        parameters: Number of parameters: all elements but BatchNorm's statistics.
        progress: Recorded epoch and iteration by these names.
        resumable: Whether it holds what mmengine resumes a training from.
        backbone: The vHeat in it, None if there is none that can be told.
        problem: Why there is none, or '' if there is.
    """

    origin: str
    entries: dict[str, str]
    key: str
    prefix: str
    wrappers: bool
    kind: str
    num_classes: int | None
    class_names: tuple[str, ...]
    dtypes: dict[str, int]
    parameters: int
    progress: dict[str, int]
    resumable: bool
    backbone: Backbone | None
    problem: str


def describe_checkpoint(checkpoint: Mapping[str, Any], key: str | None = None) -> Description:
    """Recognise a checkpoint.

    Args:
        checkpoint: What the file held.
        key: Entry to look at, see `find_state_dict`.

    Returns:
        What it is. Values of tensors are not looked at, so that they may stay in the file.

    Raises:
        UserError: If it holds no state dict.
    """
    found = find_state_dict(checkpoint, key)
    unwrapped = unwrapped_names(found.tensors)
    tensors = {name: found.tensors[old] for old, name in unwrapped.items() if name is not None}
    backbone, prefix, problem = None, '', ''
    try:
        prefix = backbone_prefix(tensors, folded=True)
        names = {
            name.removeprefix(prefix.removesuffix(BACKBONE)): tensor
            for name, tensor in tensors.items()
        }
        backbone = _describe_backbone(
            {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}
        )
    except UserError as error:
        names, problem = tensors, str(error)
    counted = {name: tensor for name, tensor in tensors.items() if not name.endswith(STATISTICS)}
    return Description(
        origin=_origin(checkpoint, found, backbone is not None),
        entries={shown(name): _summary(value) for name, value in checkpoint.items()},
        key=found.key,
        prefix=prefix,
        wrappers=any(old != name for old, name in unwrapped.items()),
        kind=model_kind(names),
        num_classes=count_classes(names),
        class_names=tuple(shown(name, 40) for name in class_names(checkpoint)),
        dtypes=dict(Counter(str(t.dtype).removeprefix('torch.') for t in tensors.values())),
        parameters=sum(tensor.numel() for tensor in counted.values()),
        progress=_progress(checkpoint),
        resumable=set(RESUMABLE_ENTRIES) <= checkpoint.keys(),
        backbone=backbone,
        problem=problem,
    )


def _describe_backbone(tensors: Mapping[str, Tensor]) -> Backbone:
    """Read the architecture off a backbone's own names and shapes.

    Raises:
        UserError: If stages or blocks are missing, or tensors have other dimensions.
    """
    blocks = _blocks(map(OPERATOR.fullmatch, tensors))
    depths = tuple(len(blocks[stage]) for stage in sorted(blocks))
    if any(blocks.get(i) != set(range(depth)) for i, depth in enumerate(depths)):
        raise UserError('a vHeat with stages or blocks missing: the checkpoint is incomplete')

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        tensor = tensors.get(name)
        if tensor is None or tensor.dim() != dimensions or 0 in tensor.shape:
            has = 'missing' if tensor is None else tuple(tensor.shape)
            raise UserError(
                f'a vHeat whose {name} is {has}, expected {dimensions} dimensions: '
                'the checkpoint is incomplete'
            )
        return tuple(tensor.shape)

    folded = any(map(FOLDED_DECAY.fullmatch, tensors))
    variant = find_variant(tensors, folded)
    grids, heights, widths = [], [], []
    for stage in range(len(depths)):
        if folded:
            name, dimensions = f'layers.{stage}.0.op.k_exp', 3
        elif variant.diffusivity in ('shared', 'fixed') or variant.operator == 'identity':
            name, dimensions = f'layers.{stage}.0.op.out_norm.weight', 1
        elif variant.mixer:
            name = f'layers.{stage}.0.op.mixer.{variant.mixer}'
            dimensions = 4 if variant.operator == 'global_filter' else 3
        else:
            name, dimensions = embedding_name(stage), 3
        grids.append(shape(name, dimensions))
        if dimensions > 1:
            heights.append((grids[-1][0], grids[-1][0]))
            widths.append(map_widths(name, grids[-1]))
    dims = tuple(grid[2] if len(grid) > 2 else grid[0] for grid in grids)
    hidden = tuple(shape(f'layers.{i}.0.mlp.fc1.weight', 4)[0] for i in range(len(depths)))
    in_channels = shape(INPUT_CONV, 4)[1]
    layer_scale = any(map(LAYER_SCALE.fullmatch, tensors))
    expected = backbone_shapes(
        depths, tuple(grids), hidden, layer_scale, in_channels, folded, variant
    )
    norms = {
        name: (dims[int(match[1])],)
        for name in tensors
        if (match := OUTPUT_NORM.fullmatch(name)) and int(match[1]) < len(dims)
    }
    misshaped = {}
    for name, wanted in (expected | norms).items():
        if (given := tuple(tensors[name].shape) if name in tensors else wanted) != wanted:
            misshaped[name] = given, wanted
    return Backbone(
        depths=depths,
        dims=dims,
        mlp_ratios=tuple(h / dim for h, dim in zip(hidden, dims, strict=True)),
        layer_scale=layer_scale,
        in_channels=in_channels,
        folded=folded,
        operator=variant.operator,
        diffusivity=variant.diffusivity,
        dwconv=variant.dwconv,
        patch_size=variant.patch_size,
        heights=_image_sides(heights, variant.patch_size),
        widths=_image_sides(widths, variant.patch_size),
        output_norms=tuple(sorted({int(OUTPUT_NORM.fullmatch(name)[1]) for name in norms})),
        missing=tuple(name for name in expected if name not in tensors),
        misshaped=misshaped,
        unknown=tuple(
            name
            for name in tensors
            if name not in expected and name not in norms and not _is_around(name)
        ),
    )


def arch_in_words(weights: Mapping[str, Tensor | Size]) -> str:
    """Describe the vHeat in a state dict of any model, '' if there is none.

    Unlike :func:`describe_checkpoint` it takes what is incomplete, for messages about that.

    Args:
        weights: Tensors or their shapes by name.
    """
    blocks = _blocks(find(OPERATOR, name) for name in weights)
    dims = {}
    for name, tensor in weights.items():
        shape = getattr(tensor, 'shape', tensor)
        if (match := find(EMBEDDING, name)) and len(shape) == 3:
            dims[int(match[1])] = shape[-1]
    if not blocks or not dims:
        return ''
    depths = ', '.join(str(len(blocks[stage])) for stage in sorted(blocks))
    widths = ', '.join(str(dims[stage]) for stage in sorted(dims))
    scaled = any(find(LAYER_SCALE, name) for name in weights)
    return f'a vHeat of depths {depths}, widths {widths}, {"with" if scaled else "no"} layer scale'


def _blocks(matches: Iterable[re.Match | None]) -> dict[int, set[int]]:
    """Collect the blocks of every stage from matches of names in their operators."""
    blocks: dict[int, set[int]] = {}
    for match in filter(None, matches):
        blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    return blocks


def _is_around(name: str) -> bool:
    """Whether a name beside a backbone's that stands bare is a classifier's."""
    return name.startswith(('classifier.', 'head.'))


def _image_sides(map_sides: list[Range], stem_stride: int) -> Range | None:
    """Tell the least and the largest side of images whose maps have sides in these ranges."""
    if not map_sides:
        return None
    strides = [stem_stride * 2**stage for stage in range(len(map_sides))]
    least = max((n - 1) * stride + 1 for (n, _), stride in zip(map_sides, strides, strict=True))
    largest = min(n * stride for (_, n), stride in zip(map_sides, strides, strict=True))
    return (least, largest) if least <= largest else None


def _origin(checkpoint: Mapping[str, Any], found: SourceState, is_vheat: bool) -> str:
    """Tell who wrote a checkpoint."""
    meta = metadata(checkpoint)
    if 'folded_for' in meta:
        return 'folded for inference by mmvheat'
    if {'source', 'task'} <= meta.keys() or {'source', 'form'} <= meta.keys():
        return 'converted by mmvheat'
    if 'mmengine_version' in meta or 'message_hub' in checkpoint:
        return 'mmengine checkpoint'
    if 'mmcv_version' in meta:
        return 'mmcv checkpoint'
    if found.key in ('model', 'model_ema') and is_vheat:
        config = ' with its config' if isinstance(checkpoint.get('config'), Mapping) else ''
        return f'published classification checkpoint{config}'
    if found.key:
        return f'state dict under {shown(found.key)!r}'
    return 'bare state dict'


def _summary(value: Any) -> str:
    """Describe an entry of a checkpoint in a few words."""
    if isinstance(value, Mapping):
        count = sum(isinstance(item, Tensor) for item in value.values())
        return f'{count} tensors' if count else f'{len(value)} entries'
    if isinstance(value, Tensor):
        return f'tensor {tuple(value.shape)}'
    if isinstance(value, (int, float, str)) or value is None:
        return shown(value, 40)
    return type(value).__name__


def _progress(checkpoint: Mapping[str, Any]) -> dict[str, int]:
    """Read epoch and iteration off mmengine's metadata, or the published code's entries."""
    meta = metadata(checkpoint)
    recorded = {name: meta.get(name, checkpoint.get(name)) for name in ('epoch', 'iter')}
    return {n: value for n, value in recorded.items() if type(value) is int and 0 <= value < 2**63}
