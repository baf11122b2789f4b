"""The vHeat backbone, which importing this package registers, and a classifier around it."""

from .arch import ARCHS, VHeatArch
from .classifier import VHeatClassifier
from .published import MMDET_VHEAT, MMSEG_VHEAT
from .published_weights import PUBLISHED_CLASSIFIERS
from .vheat import VHeat

__all__ = [
    'ARCHS',
    'MMDET_VHEAT',
    'MMSEG_VHEAT',
    'PUBLISHED_CLASSIFIERS',
    'VHeat',
    'VHeatArch',
    'VHeatClassifier',
]
