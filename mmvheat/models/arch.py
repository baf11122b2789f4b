"""Architectures of vHeat, as data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from mmvheat.checkpoint import Backbone
from mmvheat.errors import UserError
from mmvheat.layers.mixers import check_mixer

__all__ = ['ARCHS', 'VHeatArch', 'arch_name', 'is_arch', 'resolve_arch']

# The side of the pixels' blocks that the stem of two convolutions makes a position of.
_STEM_STRIDE = 4


@dataclass(frozen=True)
class VHeatArch:
    """What tells one vHeat from another.

    Attributes:
        depths: Blocks of every stage.
        dims: Channels of every stage; a single number is the first stage's and doubles from
            stage to stage.
        post_norm: Normalise a residual branch's output instead of its input.
        layer_scale_init_value: Start of the learned scale of each branch; None for no scale.
        mlp_ratio: Hidden channels of the MLPs over the stage's.
        operator: What mixes the positions of a map: ``'heat'``; ``'global_filter'``, a learned
            complex spectrum of the Fourier transform; ``'dct_filter'``, a learned real spectrum of
            the cosine transform; ``'identity'``, nothing.
        diffusivity: Where that of ``'heat'`` comes from: ``'predicted'`` from the frequency
            embedding; ``'learned'``, a value for each frequency and channel; ``'shared'``, a value
            for each channel; ``'fixed'``, the number ``k``.
        k: The number of ``diffusivity='fixed'``, which is not trained.
        dwconv: Whether a depth-wise convolution comes before the operator.
        patch_size: Stride of the stem: 4 for its two convolutions, any other for one convolution
            over patches of that side.

    Raises:
        UserError: If a value is of the wrong kind or out of range, or lengths do not agree.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...] | int
    post_norm: bool = False
    layer_scale_init_value: float | None = None
    mlp_ratio: float = 4.0
    operator: str = 'heat'
    diffusivity: str = 'predicted'
    k: float | None = None
    dwconv: bool = True
    patch_size: int = _STEM_STRIDE

    def __post_init__(self) -> None:
        depths = self._positive_integers('depths', self.depths)
        dims = self.dims
        if isinstance(dims, int):
            dims = [dims * 2**i for i in range(len(depths))]
        dims = self._positive_integers('dims', dims)
        if len(dims) != len(depths):
            raise UserError(f'arch has {len(depths)} depths but {len(dims)} dims: {depths}, {dims}')
        patches = self.patch_size
        if type(patches) is not int or patches < 1:
            raise UserError(f'patch_size of an arch is a positive integer, got {patches!r}')
        if dims[0] % 2 and not self.has_patches:
            raise UserError(f'the stem halves the first of dims, so it is even, got {dims[0]}')
        if not isinstance(self.mlp_ratio, int | float) or not 0 < self.mlp_ratio < math.inf:
            raise UserError(f'mlp_ratio is a positive number, got {self.mlp_ratio!r}')
        scale = self.layer_scale_init_value
        if scale is not None and not (isinstance(scale, int | float) and math.isfinite(scale)):
            raise UserError(f'layer_scale_init_value is a number or None, got {scale!r}')
        if not isinstance(self.dwconv, bool):
            raise UserError(f'dwconv of an arch is True or False, got {self.dwconv!r}')
        try:
            check_mixer(self.operator, self.diffusivity, self.k)
        except ValueError as error:
            raise UserError(f'arch: {error}') from None
        object.__setattr__(self, 'depths', depths)
        object.__setattr__(self, 'dims', dims)

    @property
    def has_patches(self) -> bool:
        """Whether the stem is one convolution over patches."""
        return self.patch_size != _STEM_STRIDE

    @property
    def has_embeddings(self) -> bool:
        """Whether the diffusivity is predicted from a frequency embedding of each stage."""
        return (self.operator, self.diffusivity) == ('heat', 'predicted')

    @property
    def has_decays(self) -> bool:
        """Whether each frequency is multiplied by a number, so that the model can be folded."""
        return self.operator in ('heat', 'dct_filter')

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of every stage's map."""
        return tuple(self.patch_size * 2**i for i in range(len(self.depths)))

    @staticmethod
    def _positive_integers(name: str, values: object) -> tuple[int, ...]:
        """Check a sequence of positive integers."""
        if isinstance(values, str | bytes) or not hasattr(values, '__iter__'):
            raise UserError(f'{name} of an arch is a sequence of integers, got {values!r}')
        values = tuple(values)
        if not values or not all(isinstance(v, int) and v > 0 for v in values):
            raise UserError(f'{name} of an arch are positive integers, got {values}')
        return values


# tiny, small, base: arXiv 2405.16555, Table 8, with the published checkpoints' norms and scales.
# isotropic_small: DeiT-S (arXiv 2012.12877) with heat conduction in the place of attention.
ARCHS = {
    'tiny': VHeatArch(depths=(2, 2, 6, 2), dims=96),
    'small': VHeatArch(depths=(2, 2, 18, 2), dims=96, post_norm=True, layer_scale_init_value=1e-5),
    'base': VHeatArch(depths=(2, 2, 18, 2), dims=128, post_norm=True, layer_scale_init_value=1e-5),
    'isotropic_small': VHeatArch(depths=(12,), dims=384, patch_size=16),
}


def resolve_arch(arch: str | Mapping | VHeatArch) -> VHeatArch:
    """Turn what a config says into an architecture.

    Args:
        arch: A name of :data:`ARCHS`, bare, behind ``'vheat_'`` or as its first letter; a mapping
            with the fields of :class:`VHeatArch` of which ``depths`` and ``dims`` are required; a
            mapping with a name, ``dict(name='tiny', dwconv=False)``, and the fields that differ
            from it; or an architecture.

    Raises:
        UserError: If ``arch`` is none of these, the name or a field is unknown, or a required field
            is missing.
    """
    if isinstance(arch, VHeatArch):
        return arch
    if isinstance(arch, str):
        by_name = ARCHS | {name[0]: value for name, value in ARCHS.items()}
        name = arch.removeprefix('vheat_')
        if name not in by_name:
            raise UserError(
                f'unknown arch {arch!r}: use {", ".join(ARCHS)}, or a dict of depths and dims'
            )
        return by_name[name]
    if not isinstance(arch, Mapping):
        raise UserError(f'arch is a name or a dict of depths and dims, got {arch!r}')
    known = [field.name for field in fields(VHeatArch)]
    arch = dict(arch)
    if (name := arch.pop('name', None)) is not None:
        arch = vars(resolve_arch(name)) | arch
    unknown = [str(key) for key in arch if key not in known]
    missing = [key for key in ('depths', 'dims') if key not in arch]
    if unknown or missing:
        wrong = [f'unknown {key}' for key in unknown] + [f'no {key}' for key in missing]
        raise UserError(f'arch has {", ".join(wrong)}: its keys are {", ".join(known)}')
    return VHeatArch(**arch)


def arch_name(backbone: Backbone) -> str | None:
    """Name the backbone of a checkpoint as configs do: 'tiny', 'small', ...; None for others."""
    return next((name for name, arch in ARCHS.items() if is_arch(backbone, arch)), None)


def is_arch(backbone: Backbone, arch: VHeatArch) -> bool:
    """Whether the backbone of a checkpoint is of an architecture, as far as shapes tell."""
    scaled = arch.layer_scale_init_value is not None
    same_mlps = set(backbone.mlp_ratios) == {arch.mlp_ratio}
    same_sizes = (backbone.depths, backbone.dims) == (arch.depths, arch.dims)
    same_variant = all(
        getattr(backbone, name) == getattr(arch, name)
        for name in ('operator', 'diffusivity', 'dwconv', 'patch_size')
    )
    return same_sizes and same_mlps and same_variant and backbone.layer_scale == scaled
