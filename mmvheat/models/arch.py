"""Architectures of vHeat, as data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from mmvheat.checkpoint import Backbone
from mmvheat.errors import UserError

__all__ = ['ARCHS', 'VHeatArch', 'arch_name', 'is_arch', 'resolve_arch']


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

    Raises:
        UserError: If a value is of the wrong kind or out of range, or lengths do not agree.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...] | int
    post_norm: bool = False
    layer_scale_init_value: float | None = None
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        depths = self._positive_integers('depths', self.depths)
        dims = self.dims
        if isinstance(dims, int):
            dims = [dims * 2**i for i in range(len(depths))]
        dims = self._positive_integers('dims', dims)
        if len(dims) != len(depths):
            raise UserError(f'arch has {len(depths)} depths but {len(dims)} dims: {depths}, {dims}')
        if dims[0] % 2:
            raise UserError(f'the stem halves the first of dims, so it is even, got {dims[0]}')
        if not isinstance(self.mlp_ratio, int | float) or not 0 < self.mlp_ratio < math.inf:
            raise UserError(f'mlp_ratio is a positive number, got {self.mlp_ratio!r}')
        scale = self.layer_scale_init_value
        if scale is not None and not (isinstance(scale, int | float) and math.isfinite(scale)):
            raise UserError(f'layer_scale_init_value is a number or None, got {scale!r}')
        object.__setattr__(self, 'depths', depths)
        object.__setattr__(self, 'dims', dims)

    @staticmethod
    def _positive_integers(name: str, values: object) -> tuple[int, ...]:
        """Check a sequence of positive integers."""
        if isinstance(values, str | bytes) or not hasattr(values, '__iter__'):
            raise UserError(f'{name} of an arch is a sequence of integers, got {values!r}')
        values = tuple(values)
        if not values or not all(isinstance(v, int) and v > 0 for v in values):
            raise UserError(f'{name} of an arch are positive integers, got {values}')
        return values


# arXiv 2405.16555, Table 8, with the published checkpoints' norms and scales.
ARCHS = {
    'tiny': VHeatArch(depths=(2, 2, 6, 2), dims=96),
    'small': VHeatArch(depths=(2, 2, 18, 2), dims=96, post_norm=True, layer_scale_init_value=1e-5),
    'base': VHeatArch(depths=(2, 2, 18, 2), dims=128, post_norm=True, layer_scale_init_value=1e-5),
}


def resolve_arch(arch: str | Mapping | VHeatArch) -> VHeatArch:
    """Turn what a config says into an architecture.

    Args:
        arch: A name of :data:`ARCHS` (or its first letter), a mapping with the fields of
            :class:`VHeatArch` of which ``depths`` and ``dims`` are required, or an architecture.

    Raises:
        UserError: If ``arch`` is none of these, the name or a field is unknown, or a required field
            is missing.
    """
    if isinstance(arch, VHeatArch):
        return arch
    if isinstance(arch, str):
        by_name = ARCHS | {name[0]: value for name, value in ARCHS.items()}
        if arch not in by_name:
            raise UserError(
                f'unknown arch {arch!r}: use {", ".join(ARCHS)}, or a dict of depths and dims'
            )
        return by_name[arch]
    if not isinstance(arch, Mapping):
        raise UserError(f'arch is a name or a dict of depths and dims, got {arch!r}')
    known = [field.name for field in fields(VHeatArch)]
    unknown = [str(key) for key in arch if key not in known]
    missing = [key for key in ('depths', 'dims') if key not in arch]
    if unknown or missing:
        wrong = [f'unknown {key}' for key in unknown] + [f'no {key}' for key in missing]
        raise UserError(f'arch has {", ".join(wrong)}: its keys are {", ".join(known)}')
    return VHeatArch(**arch)


def arch_name(backbone: Backbone) -> str | None:
    """Name the backbone of a checkpoint as configs do: 'tiny', 'small', 'base'; None for others."""
    return next((name for name, arch in ARCHS.items() if is_arch(backbone, arch)), None)


def is_arch(backbone: Backbone, arch: VHeatArch) -> bool:
    """Whether the backbone of a checkpoint is of an architecture, as far as shapes tell."""
    scaled = arch.layer_scale_init_value is not None
    same_mlps = set(backbone.mlp_ratios) == {arch.mlp_ratio}
    same_sizes = (backbone.depths, backbone.dims) == (arch.depths, arch.dims)
    return same_sizes and same_mlps and backbone.layer_scale == scaled
