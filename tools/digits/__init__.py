"""The embedded default data: real handwritten digits, alone and composed into scenes."""

from .prepare import prepare_digits
from .spec import DIGIT_NAMES, DigitsSpec

__all__ = ['DIGIT_NAMES', 'DigitsSpec', 'prepare_digits']
