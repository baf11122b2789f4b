"""The vHeat backbone; importing this package registers it."""

from .arch import ARCHS, VHeatArch
from .published import MMDET_VHEAT, MMSEG_VHEAT
from .vheat import VHeat

__all__ = ['ARCHS', 'MMDET_VHEAT', 'MMSEG_VHEAT', 'VHeat', 'VHeatArch']
