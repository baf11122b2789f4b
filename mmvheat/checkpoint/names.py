"""How the keys of a checkpoint are called: every pattern and every renaming stands here.

A backbone's own names are the published ones. What stands before them, and how a classifier is
called, differs: mmpretrain says ``backbone.outnorm3`` and ``head.fc`` for the published
``classifier.0`` and ``classifier.3``; training wrappers put a component of their own in between.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

from torch import Tensor

from mmvheat.errors import UserError

__all__ = [
    'BACKBONE',
    'EMBEDDING',
    'FOLDED_DECAY',
    'INPUT_CONV',
    'LAYER_SCALE',
    'MIXER',
    'OPERATOR',
    'OUTPUT_NORM',
    'STATISTICS',
    'TO_K_WEIGHT',
    'Variant',
    'backbone_prefix',
    'backbone_shapes',
    'classes_of',
    'count_classes',
    'embedding_name',
    'find',
    'find_variant',
    'has_classifier',
    'is_sharded',
    'loaded_name',
    'mmpretrain_name',
    'model_kind',
    'published_name',
    'shown',
    'unwrapped_name',
    'unwrapped_names',
]

BACKBONE = 'backbone.'

_INDEX = '(0|[1-9][0-9]{0,3})'
# Names within the backbone, behind what stands before it.
INPUT_CONV = 'patch_embed.conv1.weight'
EMBEDDING = re.compile(rf'freq_embed\.{_INDEX}')
OPERATOR = re.compile(rf'layers\.{_INDEX}\.{_INDEX}\.op\..+')
_OUT_NORM = re.compile(rf'layers\.{_INDEX}\.{_INDEX}\.op\.out_norm\.weight')
TO_K_WEIGHT = re.compile(rf'layers\.{_INDEX}\.{_INDEX}\.op\.to_k\.0\.weight')
FOLDED_DECAY = re.compile(rf'layers\.{_INDEX}\.{_INDEX}\.op\.k_exp')
# What a variant has in the place of ``to_k`` and the embeddings.
MIXER = re.compile(rf'layers\.{_INDEX}\.{_INDEX}\.op\.mixer\.(k|dct_filter|global_filter)')
OUTPUT_NORM = re.compile(rf'outnorm{_INDEX}\.(weight|bias)')
LAYER_SCALE = re.compile(rf'layers\.{_INDEX}\.{_INDEX}\.gamma[12]')

# Ends of the names of what BatchNorm counts: in a state dict, but not trained.
STATISTICS = ('.running_mean', '.running_var', '.num_batches_tracked')

# Components that torch's wrappers put into names, and no module of a model is called.
_WRAPPERS = ('_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module')
# What FSDP keeps instead of weights, unless it is told to show those.
_SHARDS = '_flat_param'
# DistributedDataParallel and averaged models call what they wrap so, as an own module may be too.
_MODULE = 'module'
# What an averaged model counts beside it: mmengine's, torch's.
_COUNTERS = ('steps', 'n_averaged')
# Wrappers stand before the backbone; deeper names are left alone.
_DEEPEST = 8

# What tells the models apart, the more special first: starts that must all be among the names.
_KINDS = (
    ('Cascade Mask R-CNN', ('roi_head.bbox_head.0.', 'roi_head.mask_head.')),
    ('Cascade R-CNN', ('roi_head.bbox_head.0.',)),
    ('Mask R-CNN', ('rpn_head.', 'roi_head.bbox_head.', 'roi_head.mask_head.')),
    ('Faster R-CNN', ('rpn_head.', 'roi_head.bbox_head.')),
    ('RetinaNet', ('bbox_head.retina_cls.',)),
    ('ATSS', ('bbox_head.atss_cls.',)),
    ('FCOS', ('bbox_head.conv_cls.', 'bbox_head.conv_centerness.')),
    ('DETR-like detector', ('bbox_head.', 'decoder.')),
    ('detector', ('roi_head.',)),
    ('detector', ('bbox_head.',)),
    ('detector', ('rpn_head.',)),
    ('detector', ('mask_head.',)),
    ('detector', ('panoptic_head.',)),
    ('UperNet', ('decode_head.psp_modules.',)),
    ('Semantic FPN', ('decode_head.scale_heads.',)),
    ('segmentor', ('decode_head.',)),
    ('classifier', ('head.',)),
    ('classifier', ('classifier.',)),
)
# Layers with an output for every class, outputs that they have beside, and the layer whose outputs
# are four for each of their anchors.
_CLASS_LAYERS = (
    ('head.fc', 0, None),
    ('classifier.3', 0, None),
    ('roi_head.bbox_head.fc_cls', 1, None),
    ('roi_head.bbox_head.0.fc_cls', 1, None),
    ('bbox_head.retina_cls', 0, 'bbox_head.retina_reg'),
    ('bbox_head.atss_cls', 0, 'bbox_head.atss_reg'),
    ('bbox_head.conv_cls', 0, 'bbox_head.conv_reg'),
    ('decode_head.conv_seg', 0, None),
)
# How such layers' names end, whichever head of a model they stand in, and outputs beside classes.
_CLASS_LAYER_ENDS = {'head.fc': 0, 'fc_cls': 1, 'conv_seg': 0}


def shown(name: object, most: int = 80) -> str:
    """Make a name from a file fit to be shown: one line, not longer than ``most`` characters."""
    try:
        text = str(name)
    except ValueError:  # an integer of thousands of digits
        text = type(name).__name__
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= most else f'{text[: most - 3]}...'


def embedding_name(stage: int) -> str:
    """Name the frequency embedding of a stage."""
    return f'freq_embed.{stage}'


def find(pattern: re.Pattern, name: str) -> re.Match | None:
    """Match a pattern of a backbone's names at the end of a name, whatever precedes it."""
    starts = (0, *(place.end() for place in re.finditer(r'\.', name)))
    return next(filter(None, (pattern.fullmatch(name, start) for start in starts)), None)


def unwrapped_name(name: str) -> str:
    """Take out of a parameter's name what the wrappers of a model in memory put into it."""
    parts = (part for part in name.split('.') if part not in _WRAPPERS)
    return '.'.join(parts).removeprefix(f'{_MODULE}.')


def loaded_name(name: object) -> str:
    """Give the name under which mmengine loads a tensor: without DistributedDataParallel's."""
    return str(name).removeprefix(f'{_MODULE}.')


def is_sharded(name: str) -> bool:
    """Whether a parameter of this name is, or lies in, what FSDP has cut into shards."""
    return '_fsdp_wrapped_module' in name or _SHARDS in name


def unwrapped_names(names: Iterable[str]) -> dict[str, str | None]:
    """Take out what wrappers for training put into names, wherever it stands.

    DistributedDataParallel and averages of weights add ``module``, ``torch.compile`` adds
    ``_orig_mod``, sharding and recomputation theirs. ``module`` counts as a wrapper's where
    nothing stands beside it but the counter of an average.

    Args:
        names: All keys of a state dict.

    Returns:
        The name without wrappers by the name with them; None for a wrapper's counter.
    """
    paths = {}
    for name in names:
        *parents, leaf = name.split('.', _DEEPEST)
        paths[name] = [*(part for part in parents if part not in _WRAPPERS), leaf]
    children = defaultdict(set)
    for path in paths.values():
        for depth, part in enumerate(path):
            children[tuple(path[:depth])].add((part, depth + 1 == len(path)))
    inside, counters = (_MODULE, False), {(name, True) for name in _COUNTERS}
    wrappers = {
        parent for parent, parts in children.items() if inside in parts <= {inside, *counters}
    }

    def unwrap(path: list[str]) -> str | None:
        if tuple(path[:-1]) in wrappers:
            return None  # not the module, so its counter
        kept = (part for depth, part in enumerate(path) if tuple(path[:depth]) not in wrappers)
        return '.'.join(kept)

    return {name: unwrap(path) for name, path in paths.items()}


def backbone_prefix(names: Iterable[str], folded: bool = False) -> str:
    """Tell what stands before a vHeat backbone's keys, '' or for example 'backbone.'.

    Args:
        names: Keys of a state dict.
        folded: Whether a backbone that is folded for inference will do.

    Returns:
        The prefix, with its dot.

    Raises:
        UserError: If the model was folded for inference and may not be, has no frequency
            embeddings, is not vHeat, or holds several backbones.
    """
    names = list(names)
    decays = _prefixes(FOLDED_DECAY, names)
    if decays and not folded:
        example = next(name for name in names if name.endswith('.op.k_exp'))
        raise UserError(
            f'already folded for inference ({shown(example)}): its frequency embeddings are gone; '
            'convert the training checkpoint'
        )
    embeds = _prefixes(EMBEDDING, names)
    operators = _prefixes(OPERATOR, names)
    # Variants need no embeddings; what predicts from them has a layer for it.
    predicted = {*_prefixes(TO_K_WEIGHT, names), *embeds, *decays}
    whole = [prefix for prefix in _prefixes(_OUT_NORM, names) if prefix not in predicted]
    if operators and not (embeds or decays or whole):
        raise UserError(
            'vHeat layers without frequency embeddings (freq_embed.0, ...): '
            'convert the training checkpoint'
        )
    ours = {*embeds, *decays, *whole}
    prefixes = [prefix for prefix in operators if prefix in ours]
    if not prefixes:
        raise UserError(
            'another model than vHeat: no freq_embed.* with layers.*.op.* among its '
            f'{len(names)} tensors (the first is {shown(names[0]) if names else "missing"}); '
            'give a checkpoint of a vHeat model'
        )
    if len(prefixes) > 1:
        raise UserError(
            f'several vHeat backbones ({", ".join(repr(shown(p)) for p in prefixes[:4])}): '
            'save the one to convert in a file of its own'
        )
    return prefixes[0]


def _prefixes(pattern: re.Pattern, names: Iterable[str]) -> list[str]:
    # The first component of a backbone's name occurs in it once: cutting there is enough.
    start = re.compile(r'(?:^|\.)(?=freq_embed\.|layers\.)')
    found = {}
    for name in names:
        for match in start.finditer(name):
            if pattern.fullmatch(name, match.end()):
                found[name[: match.end()]] = None
                break
    return list(found)


def has_classifier(names: Iterable[str], prefix: str) -> bool:
    """Tell whether a model brings a classifier, published or mmpretrain's.

    Args:
        names: Keys of a state dict.
        prefix: What `backbone_prefix` says about it.
    """
    owner = prefix.removesuffix(BACKBONE)
    return any(name.startswith((f'{owner}classifier.', f'{owner}head.')) for name in names)


def mmpretrain_name(name: str, prefix: str, last_stage: int) -> str | None:
    """Give a key the name it has in an mmpretrain classifier.

    Args:
        name: Key in the source.
        prefix: What `backbone_prefix` says about the source.
        last_stage: Index of the last stage, whose output norm the classifier brings along.

    Returns:
        The name, or None if the key does not belong to the model (an EMA step counter, say).

    Raises:
        UserError: If a published classifier has a layer it should not have.
    """
    owner = prefix[: -len(BACKBONE)] if prefix.endswith(BACKBONE) else prefix
    if not name.startswith(owner):
        return None
    name = name[len(owner) :]
    if owner != prefix:
        return name
    if not name.startswith('classifier.'):
        return BACKBONE + name
    layer, _, parameter = name[len('classifier.') :].partition('.')
    modules = {'0': f'{BACKBONE}outnorm{last_stage}', '3': 'head.fc'}
    if layer not in modules:
        raise UserError(
            f'unknown layer {shown(name)}: expected classifier.0 and classifier.3; '
            'give a checkpoint of a vHeat classifier'
        )
    return f'{modules[layer]}.{parameter}'


def published_name(name: str, last_stage: int) -> str:
    """Give a key of an mmpretrain classifier the name it has in the published one.

    Args:
        name: Key as `mmpretrain_name` gives it.
        last_stage: Index of the last stage.

    Returns:
        The name.

    Raises:
        UserError: If the published classifier has no place for it.
    """
    modules = {f'{BACKBONE}outnorm{last_stage}.': 'classifier.0.', 'head.fc.': 'classifier.3.'}
    for ours, theirs in (modules | {BACKBONE: ''}).items():
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    raise UserError(
        f'{shown(name)} has no place in a published classifier, which is a backbone, a norm and '
        'one linear layer: keep the names of mmengine (--to mmpretrain)'
    )


def model_kind(names: Iterable[str]) -> str:
    """Name the kind of model by its heads.

    Args:
        names: Keys without wrappers, the backbone's with or without 'backbone.'.

    Returns:
        For example 'Mask R-CNN', 'UperNet', 'segmentor', 'classifier'; 'backbone' if it has no
        head.
    """
    names = [name for name in names if not name.startswith((BACKBONE, 'layers.'))]
    return next(
        (
            kind
            for kind, starts in _KINDS
            if all(any(name.startswith(start) for name in names) for start in starts)
        ),
        'backbone',
    )


def count_classes(tensors: Mapping[str, Tensor]) -> int | None:
    """Count the classes that the head of a model tells apart.

    Args:
        tensors: State dict without wrappers in its names.

    Returns:
        The number, or None if no layer tells it.
    """

    def outputs(layer: str | None) -> int:
        tensor = tensors.get(f'{layer}.weight')
        return tensor.size(0) if tensor is not None and tensor.dim() > 1 else 0

    for layer, beside, boxes in _CLASS_LAYERS:
        if count := outputs(layer):
            anchors = max(1, outputs(boxes) // 4)
            return count // anchors - beside
    return None


def classes_of(layer: str, outputs: int) -> int | None:
    """Tell how many classes a layer has an output for.

    Args:
        layer: Its name, without wrappers.
        outputs: Number of its outputs.

    Returns:
        The number, or None if it is no such layer, or one with several outputs a class.
    """
    for end, beside in _CLASS_LAYER_ENDS.items():
        if layer.endswith(end):
            return outputs - beside
    return None


@dataclass(frozen=True)
class Variant:
    """What names and shapes tell of a variant, by the names of ``mmvheat.models.VHeatArch``.

    Attributes:
        operator: ``'heat'``, ``'global_filter'``, ``'dct_filter'`` or ``'identity'``; folded for
            inference, heat and a filter of the cosine transform are one.
        diffusivity: ``'predicted'``, ``'learned'``, ``'shared'`` or ``'fixed'``.
        dwconv: Whether there is a depth-wise convolution before the operator.
        patch_size: Stride of the stem.
    """

    operator: str = 'heat'
    diffusivity: str = 'predicted'
    dwconv: bool = True
    patch_size: int = 4

    @property
    def mixer(self) -> str | None:
        """Name of the tensor that a block has for it; None if there is none."""
        if self.operator in ('dct_filter', 'global_filter'):
            return self.operator
        return None if self.diffusivity == 'predicted' else 'k'


def find_variant(tensors: Mapping[str, Tensor], folded: bool) -> Variant:
    """Tell the variant of a backbone by its own names, and shapes of some.

    Args:
        tensors: Its tensors.
        folded: Whether it is in the inference form.
    """
    stem = tensors.get(INPUT_CONV)
    second = ('patch_embed.conv2.', 'patch_embed.norm2.')
    has_patches = not any(name.startswith(second) for name in tensors)
    patch_size = 4
    if stem is not None and stem.dim() == 4 and has_patches:
        patch_size = max(1, stem.size(2))
    operator, diffusivity = 'heat', 'predicted'
    mixer = next(filter(None, map(MIXER.fullmatch, tensors)), None)
    if mixer is not None and mixer[3] != 'k':
        operator = mixer[3]
    elif mixer is not None:
        kinds = ('fixed', 'shared', 'learned')
        diffusivity = kinds[min(tensors[mixer[0]].dim(), 2)]
    elif not folded and not any(map(EMBEDDING.fullmatch, tensors)):
        operator = 'identity'
    dwconv = any('.op.dwconv.' in name for name in tensors)
    return Variant(operator, diffusivity, dwconv, patch_size)


def backbone_shapes(
    depths: tuple[int, ...],
    grids: tuple[tuple[int, ...], ...],
    hidden_dims: tuple[int, ...],
    layer_scale: bool,
    in_channels: int,
    folded: bool,
    variant: Variant | None = None,
) -> dict[str, tuple[int, ...]]:
    """Spell a whole backbone: its names and shapes, output norms aside.

    Args:
        depths: Blocks of every stage.
        grids: Shape (H, W, C) of every stage's frequency embedding or folded decays; of a variant
            that of what it has in their place, and (C,) if that has no size.
        hidden_dims: Hidden channels of every stage's MLPs.
        layer_scale: Whether blocks have learned scales.
        in_channels: Channels of the images.
        folded: Whether it is in the inference form.
        variant: Which variant it is of; None for none.

    Returns:
        Shapes by name.
    """
    variant = variant or Variant()
    dims = [grid[2] if len(grid) > 2 else grid[0] for grid in grids]
    shapes = _stem_shapes(dims[0], in_channels, variant.patch_size)
    predicted = not folded and (variant.operator, variant.diffusivity) == ('heat', 'predicted')
    for stage, (depth, dim, hidden) in enumerate(zip(depths, dims, hidden_dims, strict=True)):
        own: dict[str, tuple[int, ...]] = {}
        if folded:
            own['op.k_exp'] = grids[stage]
        elif predicted:
            own['op.to_k.0.weight'] = dim, dim
            shapes[embedding_name(stage)] = grids[stage]
        elif variant.mixer:
            fixed = variant.diffusivity == 'fixed'
            own[f'op.mixer.{variant.mixer}'] = () if fixed else grids[stage]
        if variant.dwconv:
            own['op.dwconv.weight'] = dim, 1, 3, 3
        vectors = [n for norm in ('norm1', 'norm2', 'op.out_norm') for n in _pair(norm)]
        vectors += ['op.dwconv.bias'] * variant.dwconv + ['op.out_linear.bias', 'mlp.fc2.bias']
        vectors += ['gamma1', 'gamma2'] * layer_scale + ['op.to_k.0.bias'] * predicted
        block = {
            'op.linear.weight': (2 * dim, dim),
            'op.linear.bias': (2 * dim,),
            'op.out_linear.weight': (dim, dim),
            'mlp.fc1.weight': (hidden, dim, 1, 1),
            'mlp.fc1.bias': (hidden,),
            'mlp.fc2.weight': (dim, hidden, 1, 1),
            **dict.fromkeys(vectors, (dim,)),
            **own,
        }
        for index, (name, shape) in product(range(depth), block.items()):
            shapes[f'layers.{stage}.{index}.{name}'] = shape
        if stage + 1 < len(dims):
            shapes[f'layers.{stage}.{depth}.0.weight'] = (dims[stage + 1], dim, 3, 3)
            shapes |= dict.fromkeys(_pair(f'layers.{stage}.{depth}.1'), (dims[stage + 1],))
    return shapes


def _stem_shapes(dim: int, in_channels: int, patch_size: int) -> dict[str, tuple[int, ...]]:
    """Spell the stem: two convolutions, or one over patches."""
    half = dim // 2
    if patch_size != 4:
        shapes = {INPUT_CONV: (dim, in_channels, patch_size, patch_size)}
        return shapes | {f'patch_embed.{n}': (dim,) for n in _pair('conv1')[1:] + _pair('norm1.1')}
    return {
        INPUT_CONV: (half, in_channels, 3, 3),
        'patch_embed.conv2.weight': (dim, half, 3, 3),
        **{f'patch_embed.{name}': (half,) for name in _pair('conv1')[1:] + _pair('norm1.1')},
        **{f'patch_embed.{name}': (dim,) for name in _pair('conv2')[1:] + _pair('norm2.1')},
    }


def _pair(layer: str) -> list[str]:
    return [f'{layer}.weight', f'{layer}.bias']
