"""Building blocks of vHeat: modules around :mod:`mmvheat.ops`, all on channels-last maps."""

from .blocks import Downsample, DropPath, HalvingConv2d, HeatBlock, Mlp, Stem
from .heat2d import Heat2D

__all__ = ['Downsample', 'DropPath', 'HalvingConv2d', 'Heat2D', 'HeatBlock', 'Mlp', 'Stem']
