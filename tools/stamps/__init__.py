"""Photographs of things cut out of their background, alone and composed into scenes."""

from .prepare import prepare_stamps
from .spec import CLASSES, STAMPS, StampsSpec

__all__ = ['CLASSES', 'STAMPS', 'StampsSpec', 'prepare_stamps']
