"""Building blocks of vHeat: modules around :mod:`mmvheat.ops`, all on channels-last maps."""

from .downsample import Downsample
from .drop_path import DropPath
from .halving_conv import HalvingConv2d
from .heat2d import Heat2D
from .heat_block import HeatBlock
from .mlp import Mlp
from .stem import Stem

__all__ = ['Downsample', 'DropPath', 'HalvingConv2d', 'Heat2D', 'HeatBlock', 'Mlp', 'Stem']
