"""Draw handwritten digits: the ground, one digit at any size, portraits and scenes.

The digits are scikit-learn's: bright ink on a dark, restless ground.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import cv2
import numpy as np
from sklearn import datasets

from .spec import NUM_TRAIN_DIGITS, NUM_VAL_DIGITS, DigitsSpec, DigitStyle, SceneStyle, TextureStyle

__all__ = [
    'Digits',
    'Instance',
    'Scene',
    'Sprite',
    'add_grain',
    'blend',
    'colour_of_luma',
    'compose',
    'compose_portrait',
    'compose_scene',
    'dark_ground',
    'load_digits',
    'render_digit',
]

# Of red, green and blue in the brightness (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114])
# Pixels of ground around a digit, and how much it is enlarged before it is drawn.
_PAD, _ZOOM = 2, 6
_NOBODY = -1


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
        colour: RGB, (3,), or one for each pixel, (h, w, 3).
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
    """
    if split not in ('train', 'val'):
        raise ValueError(f"split must be 'train' or 'val', got {split!r}")
    data = datasets.load_digits()
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


class Sprite(NamedTuple):
    """A thing drawn to be laid on a ground.

    Attributes:
        label: Its class.
        source: What tells things of one class apart.
        opacity: (h, w) float32 in [0, 1]; its mask is ``opacity > 0.5``, never empty.
        colour: RGB, (3,) or (h, w, 3).
    """

    label: int
    source: int | str
    opacity: np.ndarray
    colour: np.ndarray


class Instance(NamedTuple):
    """One thing in a scene.

    Attributes:
        label: Its class; of a digit, 0 to 9.
        source: What tells things of one class apart; of a digit, its position in scikit-learn's
            ``load_digits``.
        mask: What is seen of it, (H, W) bool.
    """

    label: int
    source: int | str
    mask: np.ndarray


class Scene(NamedTuple):
    """A composed scene.

    Attributes:
        image: RGB, (H, W, 3) uint8.
        instances: Its things, the earlier below the later.
        semantic: ADE20K-style labels, (H, W) uint8: 0 void (unused), 1 ground, 2 + label.
    """

    image: np.ndarray
    instances: list[Instance]
    semantic: np.ndarray


def compose_portrait(digit: np.ndarray, rng: np.random.Generator, spec: DigitsSpec) -> np.ndarray:
    """Compose a classification image: one digit on a ground like the scenes'.

    Args:
        digit: Ink, (8, 8) float32 in [0, 1].
        rng: Source of the random choices.
        spec: Their bounds.

    Returns:
        RGB image, (S, S, 3) uint8, S = ``spec.scene.portrait_size``.
    """
    size = spec.scene.portrait_size
    image = dark_ground(size, rng, spec.texture)
    height = rng.uniform(*spec.scene.portrait_height)
    opacity = render_digit(digit, height, rng, spec.digit, max_side=size)
    top, left = (rng.integers(size - side, endpoint=True) for side in opacity.shape)
    blend(image, opacity, colour_of_luma(rng.uniform(*spec.digit.luma), rng), top, left)
    return add_grain(image, rng, spec.texture)


def compose_scene(digits: Digits, rng: np.random.Generator, spec: DigitsSpec) -> Scene:
    """Compose a scene of a few digits, the largest first, the smaller over them.

    A position where too much of a digit would be hidden is refused, so every instance stays
    readable; a digit that finds no place is left out.

    Args:
        digits: Those to draw from, with replacement.
        rng: Source of the random choices.
        spec: Their bounds.

    Returns:
        The scene, with at least one instance.
    """
    image = dark_ground(spec.scene.scene_size, rng, spec.texture)
    count = rng.integers(*spec.scene.scene_digits, endpoint=True)

    def draw(height: float) -> Sprite:
        member = int(rng.integers(len(digits.labels)))
        opacity = render_digit(
            digits.images[member], height, rng, spec.digit, max_side=spec.scene.scene_size
        )
        colour = colour_of_luma(rng.uniform(*spec.digit.luma), rng)
        return Sprite(int(digits.labels[member]), int(digits.sources[member]), opacity, colour)

    return compose(image, count, draw, rng, spec.scene, spec.texture)


def compose(
    image: np.ndarray,
    count: int,
    draw: Callable[[float], Sprite],
    rng: np.random.Generator,
    style: SceneStyle,
    texture: TextureStyle,
) -> Scene:
    """Lay things on a ground, the largest first, the smaller over them.

    Args:
        image: The ground, RGB, (S, S, 3) float32; it is drawn upon.
        count: How many things to try.
        draw: Draws one of a given height, in pixels, that fits into the ground.
        rng: Source of the random choices.
        style: Their bounds.
        texture: Of the grain.

    Returns:
        The scene, with at least one instance.
    """
    heights = np.sort(rng.uniform(*style.scene_height, count))[::-1]
    owner = np.full(image.shape[:2], _NOBODY, np.int64)
    areas: list[int] = []
    members: list[Sprite] = []
    for height in heights:
        sprite = draw(height)
        mask = sprite.opacity > 0.5
        position = _find_place(mask, owner, areas, rng, style)
        if position is None:
            continue
        top, left = position
        blend(image, sprite.opacity, sprite.colour, top, left)
        owner[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = len(members)
        areas.append(int(mask.sum()))
        members.append(sprite)

    instances = [
        Instance(sprite.label, sprite.source, owner == number)
        for number, sprite in enumerate(members)
    ]
    # The ground is number -1, so it looks up the last entry.
    labels = [sprite.label + 2 for sprite in members]
    semantic = np.append(labels, 1).astype(np.uint8)[owner]
    return Scene(add_grain(image, rng, texture), instances, semantic)


def _find_place(
    mask: np.ndarray,
    owner: np.ndarray,
    areas: list[int],
    rng: np.random.Generator,
    style: SceneStyle,
) -> tuple[int, int] | None:
    """Find a top-left corner where `mask` hides, and overlaps, no more than the style allows."""
    full = np.array(areas, np.int64)
    seen = np.bincount(owner.ravel() + 1, minlength=len(areas) + 1)[1:]
    height, width = mask.shape
    for _ in range(style.attempts):
        top = int(rng.integers(owner.shape[0] - height, endpoint=True))
        left = int(rng.integers(owner.shape[1] - width, endpoint=True))
        below = owner[top : top + height, left : left + width][mask]
        hidden = np.bincount(below + 1, minlength=len(areas) + 1)[1:]
        if hidden.sum() > style.max_hidden * mask.sum():
            continue
        if np.all(seen - hidden >= (1 - style.max_hidden) * full):
            return top, left
    return None
