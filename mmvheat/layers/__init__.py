"""Building blocks of vHeat: modules around :mod:`mmvheat.ops`, on channels-last maps."""

from .blocks import Downsample, DropPath, HalvingConv2d, HeatBlock, Mlp, PatchEmbed, Stem
from .heat2d import Heat2D
from .heat_conduction import HeatConduction2d

__all__ = [
    'Downsample',
    'DropPath',
    'HalvingConv2d',
    'Heat2D',
    'HeatBlock',
    'HeatConduction2d',
    'Mlp',
    'PatchEmbed',
    'Stem',
]
