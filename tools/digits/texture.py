"""Bright ink on a dark, restless ground."""

import numpy as np

from .extras import require
from .spec import TextureStyle

cv2 = require('cv2')

__all__ = ['add_grain', 'blend', 'colour_of_luma', 'dark_ground']

_LUMA = np.array([0.299, 0.587, 0.114])


def colour_of_luma(luma: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a random colour of a given brightness.

    Args:
        luma: Brightness (ITU-R BT.601), 0 to 255.
        rng: Source of the random choice.

    Returns:
        RGB, (3,) float64 in [0, 255].
    """
    colour = rng.uniform(0.25, 1.0, 3)
    colour *= luma / (_LUMA @ colour)
    # Mixing with the grey of the same luma brings the largest channel into range.
    excess = colour.max()
    if excess > 255:
        colour = luma + (colour - luma) * (255 - luma) / (excess - luma)
    return colour


def dark_ground(size: int, rng: np.random.Generator, style: TextureStyle) -> np.ndarray:
    """Draw a dark texture crossed by dim strokes.

    Args:
        size: Side of the square image, in pixels.
        rng: Source of the random choices.
        style: Their bounds.

    Returns:
        RGB image, (size, size, 3) float32.
    """
    contrast = rng.uniform(*style.contrast)
    ground = np.zeros((size, size, 3), np.float32)
    for cells in (size // 32 + 1, size // 8):
        noise = rng.standard_normal((cells, cells, 3), np.float32)
        ground += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    ground *= contrast / np.sqrt(2)
    ground += colour_of_luma(rng.uniform(*style.luma), rng).astype(np.float32)

    strokes = rng.uniform(*style.strokes) * (size / 64) ** 2
    for _ in range(round(strokes)):
        _draw_stroke(ground, rng, colour_of_luma(rng.uniform(*style.stroke_luma), rng))
    return cv2.GaussianBlur(np.clip(ground, 0, 255), (3, 3), 0.6)


def _draw_stroke(image: np.ndarray, rng: np.random.Generator, colour: np.ndarray) -> None:
    """Draw one thin arc, from nearly straight to a hook, in place."""
    size = image.shape[0]
    length = rng.uniform(8, 36)
    sweep = rng.uniform(0.2, 3.0)
    angles = rng.uniform(0, 2 * np.pi) + np.linspace(0, sweep, 12)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * length / sweep
    points += rng.uniform(0, size, 2) - points.mean(axis=0)
    line = np.round(points).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(image, [line], False, colour.tolist(), thickness=int(rng.integers(1, 3)))


def blend(image: np.ndarray, opacity: np.ndarray, colour: np.ndarray, top: int, left: int) -> None:
    """Lay a colour over part of an image, in place.

    Args:
        image: RGB image, (H, W, 3) float32.
        opacity: (h, w) float32 in [0, 1].
        colour: RGB, (3,).
        top: Row of the opacity's first row.
        left: Column of the opacity's first column.
    """
    height, width = opacity.shape
    patch = image[top : top + height, left : left + width]
    patch += opacity[..., None] * (colour.astype(np.float32) - patch)


def add_grain(image: np.ndarray, rng: np.random.Generator, style: TextureStyle) -> np.ndarray:
    """Finish an image: pixel noise over ground and ink alike, rounded to bytes.

    Args:
        image: RGB image, (H, W, 3) float32.
        rng: Source of the noise.
        style: Its bounds.

    Returns:
        RGB image, (H, W, 3) uint8.
    """
    noise = rng.standard_normal((*image.shape[:2], 1), np.float32) * rng.uniform(*style.grain)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
