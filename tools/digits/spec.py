"""What the embedded data consist of: seed, sizes and style."""

import hashlib
import json
from dataclasses import asdict, dataclass, field

from mmvheat.errors import UserError

__all__ = [
    'DIGIT_NAMES',
    'GENERATOR_VERSION',
    'NUM_TRAIN_DIGITS',
    'NUM_VAL_DIGITS',
    'DigitStyle',
    'DigitsSpec',
    'SceneStyle',
    'TextureStyle',
]

GENERATOR_VERSION = 1
"""Raise it whenever the same specification would give other pixels: cached data are then remade."""

NUM_TRAIN_DIGITS = 1347
NUM_VAL_DIGITS = 450
DIGIT_NAMES = tuple('0123456789')


@dataclass(frozen=True)
class DigitStyle:
    """How one digit is drawn. Pairs are the bounds of a uniform distribution."""

    rotation: tuple[float, float] = (-12.0, 12.0)
    """Degrees."""
    shear: tuple[float, float] = (-0.2, 0.2)
    aspect: tuple[float, float] = (0.9, 1.2)
    """Width over height, relative to the original digit."""
    threshold: tuple[float, float] = (0.4, 0.52)
    """Share of the full ink above which a point belongs to the digit: lower is bolder."""
    edge: float = 1.2
    """Width of the soft edge, in pixels."""
    luma: tuple[float, float] = (170.0, 245.0)


@dataclass(frozen=True)
class TextureStyle:
    """How the dark ground is drawn. Pairs are the bounds of a uniform distribution."""

    luma: tuple[float, float] = (15.0, 60.0)
    contrast: tuple[float, float] = (6.0, 18.0)
    """Standard deviation of the low-frequency texture, in grey levels."""
    grain: tuple[float, float] = (1.0, 4.0)
    """Standard deviation of the pixel noise over the finished image, in grey levels."""
    strokes: tuple[float, float] = (1.0, 4.0)
    """Distractor strokes for each 64 x 64 pixels."""
    stroke_luma: tuple[float, float] = (55.0, 105.0)


@dataclass(frozen=True)
class SceneStyle:
    """How digits are composed. Integer pairs include both ends."""

    portrait_size: int = 64
    portrait_height: tuple[float, float] = (22.0, 60.0)
    """Of the one digit in a classification image, in pixels, before it is shrunk to fit."""
    scene_size: int = 128
    scene_digits: tuple[int, int] = (3, 6)
    scene_height: tuple[float, float] = (16.0, 52.0)
    max_hidden: float = 0.1
    """Largest share of a digit that later ones may hide, and that may lie over earlier ones."""
    attempts: int = 60
    """Positions tried for a digit before it is left out."""


@dataclass(frozen=True)
class DigitsSpec:
    """Everything that the bytes of the embedded data depend on.

    Args:
        seed: Seed of every random choice, >= 0.
        num_train_scenes: Composed scenes for training, >= 1.
        num_val_scenes: Composed scenes for validation, >= 1.
        num_train_digits: Training digits used, 1 to 1347, the first of scikit-learn's.
        num_val_digits: Validation digits used, 1 to 450, the first of scikit-learn's last 450.
        train_renders: Classification images made of each training digit, >= 1.
        val_renders: Classification images made of each validation digit, >= 1.
        digit: How a digit is drawn.
        texture: How the ground is drawn.
        scene: How digits are composed.

    Raises:
        UserError: If a seed or count is not an integer or out of its range.
    """

    seed: int = 0
    num_train_scenes: int = 2400
    num_val_scenes: int = 300
    num_train_digits: int = NUM_TRAIN_DIGITS
    num_val_digits: int = NUM_VAL_DIGITS
    train_renders: int = 8
    val_renders: int = 2
    digit: DigitStyle = field(default_factory=DigitStyle)
    texture: TextureStyle = field(default_factory=TextureStyle)
    scene: SceneStyle = field(default_factory=SceneStyle)

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        self._check('seed', 0, None)
        for name in ('num_train_scenes', 'num_val_scenes', 'train_renders', 'val_renders'):
            self._check(name, 1, None)
        self._check('num_train_digits', 1, NUM_TRAIN_DIGITS)
        self._check('num_val_digits', 1, NUM_VAL_DIGITS)

    def _check(self, name: str, low: int, high: int | None) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise UserError(f'{name} must be an integer, got {value!r}')
        if value < low or (high is not None and value > high):
            wanted = f'at least {low}' if high is None else f'from {low} to {high}'
            raise UserError(f'{name} must be {wanted}, got {value}')

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the generator's version and of every parameter."""
        content = json.dumps({'version': GENERATOR_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()
