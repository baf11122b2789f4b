"""Building blocks of vHeat: modules around :mod:`mmvheat.ops`, all on channels-last maps."""

from .downsample import Downsample
from .drop_path import DropPath
from .heat2d import Heat2D
from .heat_block import HeatBlock
from .mlp import Mlp
from .stem import Stem

__all__ = ['Downsample', 'DropPath', 'Heat2D', 'HeatBlock', 'Mlp', 'Stem']
