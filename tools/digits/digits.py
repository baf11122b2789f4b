"""scikit-learn's handwritten digits: the split, and one digit drawn at any size."""

from typing import Literal, NamedTuple

import numpy as np

from .extras import require
from .spec import NUM_TRAIN_DIGITS, NUM_VAL_DIGITS, DigitStyle

cv2 = require('cv2')

__all__ = ['Digits', 'load_digits', 'render_digit']

_PAD = 2
_ZOOM = 6


class Digits(NamedTuple):
    """Digits of one split.

    Attributes:
        images: Ink, (N, 8, 8) float32 in [0, 1].
        labels: Digits shown, (N,) int64 in 0..9.
        sources: Positions in scikit-learn's ``load_digits``, (N,) int64.
    """

    images: np.ndarray
    labels: np.ndarray
    sources: np.ndarray


def load_digits(split: Literal['train', 'val'], count: int | None = None) -> Digits:
    """Load one split of the digits.

    The last 450 are validation (other people wrote them), the 1347 before them training.

    Args:
        split: ``'train'`` or ``'val'``.
        count: How many of the split's first digits to take; all unless given.

    Returns:
        The digits.

    Raises:
        ValueError: If the split is unknown.
        UserError: If scikit-learn is not installed.
    """
    if split not in ('train', 'val'):
        raise ValueError(f"split must be 'train' or 'val', got {split!r}")
    data = require('sklearn.datasets').load_digits()
    bounds = (0, NUM_TRAIN_DIGITS, NUM_TRAIN_DIGITS + NUM_VAL_DIGITS)
    start, stop = bounds[:2] if split == 'train' else bounds[1:]
    sources = np.arange(start, stop)[:count]
    images = data.images[sources].astype(np.float32) / 16
    return Digits(images, data.target[sources].astype(np.int64), sources)


def render_digit(
    image: np.ndarray,
    height: float,
    rng: np.random.Generator,
    style: DigitStyle,
    max_side: float | None = None,
) -> np.ndarray:
    """Draw a digit with a small random rotation, shear, aspect and boldness.

    Args:
        image: Ink, (8, 8) float32 in [0, 1].
        height: Height of the drawn digit, in pixels.
        rng: Source of the random choices.
        style: Their bounds.
        max_side: Width and height that the returned array keeps to, in pixels.

    Returns:
        Opacity, (h, w) float32 in [0, 1], cropped to the digit and its soft edge. The digit's mask
        is ``opacity > 0.5`` and never empty.
    """
    ink = cv2.resize(np.pad(image, _PAD), None, fx=_ZOOM, fy=_ZOOM, interpolation=cv2.INTER_CUBIC)
    ink = cv2.GaussianBlur(ink, (0, 0), 0.2 * _ZOOM)
    ink /= ink.max()

    threshold = rng.uniform(*style.threshold)
    angle = np.deg2rad(rng.uniform(*style.rotation))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.array([[rng.uniform(*style.aspect), rng.uniform(*style.shear)], [0.0, 1.0]])
    linear = rotation @ stretch

    rows, columns = np.nonzero(ink > threshold)
    points = linear @ np.stack([columns, rows])
    low, extent = points.min(axis=1), np.ptp(points, axis=1)
    margin = 1.0
    scale = height / extent[1]
    if max_side is not None:
        scale = min(scale, (max_side - 2 * margin - 1) / extent.max())

    matrix = np.column_stack([scale * linear, margin - scale * low])
    canvas = np.floor(scale * extent + 2 * margin).astype(int) + 1
    warped = cv2.warpAffine(ink, matrix, canvas.tolist(), flags=cv2.INTER_LINEAR)
    # A stroke's flank is about one original pixel wide: `gain` makes it `edge` pixels wide here.
    gain = max(scale * _ZOOM / style.edge, 1.5)
    return np.clip(0.5 + gain * (warped - threshold), 0.0, 1.0, dtype=np.float32)
