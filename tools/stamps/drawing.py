"""Draw stamps: read one, turn and shrink it, lay it on a ground."""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from digits.build import PORTRAIT, SCENE, generator
from digits.drawing import Scene, Sprite, add_grain, blend, compose, dark_ground

from mmvheat.errors import UserError

from .spec import StampsSpec, object_of

__all__ = ['compose_stamps', 'portray_stamp', 'read_stamp', 'render_stamp']

# Longer side of a stamp that is kept in memory, in pixels: more than any that is drawn.
_SIDE = 160
# Pixels that are seen, of a stamp, below which it is no cut-out.
_LEAST = 0.02


@cache
def read_stamp(path: Path) -> np.ndarray:
    """Read a stamp, shrunk to at most 160 pixels.

    Args:
        path: A PNG file.

    Returns:
        RGB times opacity, and opacity, (h, w, 4) float32 in [0, 1], cropped to what is seen.

    Raises:
        UserError: If it is damaged or has no opacity.
    """
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 3 or image.shape[2] != 4:
        what = 'is no picture' if image is None else 'has no opacity'
        raise UserError(f'{path} {what}: install tuxpaint-stamps-default anew')
    image = image.astype(np.float32) / (65535 if image.dtype == np.uint16 else 255)
    rows, columns = np.nonzero(image[..., 3] > 0.5)
    if len(rows) < _LEAST * image[..., 3].size:
        raise UserError(f'{path} is transparent almost everywhere: leave it out')
    image = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1, [2, 1, 0, 3]]
    # Else the colour behind transparent pixels would show at the edges.
    image[..., :3] *= image[..., 3:]
    scale = _SIDE / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return image


def render_stamp(
    image: np.ndarray, side: float, rng: np.random.Generator, spec: StampsSpec
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a stamp with a small random rotation, mirrored half of the time.

    Args:
        image: As :func:`read_stamp` returns it.
        side: Its longer side, turned, in pixels.
        rng: Source of the random choices.
        spec: Their bounds.

    Returns:
        Opacity (h, w) and RGB from 0 to 255 (h, w, 3), float32. Something has an opacity above 0.5.
    """
    if rng.random() < 0.5:
        image = image[:, ::-1]
    height, width = image.shape[:2]
    angle = np.deg2rad(rng.uniform(*spec.rotation))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    extent = np.abs(turn) @ [width, height]
    scale = max(side - 3, 4) / extent.max()
    # Shrunk by areas first: an affine map looks at four pixels, wherever it goes.
    small = cv2.resize(
        np.ascontiguousarray(image),
        [max(2, round(scale * length)) for length in (width, height)],
        interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
    )
    middle = np.array([small.shape[1] - 1, small.shape[0] - 1]) / 2
    canvas = np.ceil(np.abs(turn) @ small.shape[1::-1]).astype(int) + 1
    matrix = np.column_stack([turn, (canvas - 1) / 2 - turn @ middle])
    drawn = cv2.warpAffine(small, matrix, canvas.tolist(), flags=cv2.INTER_LINEAR)
    opacity = np.clip(drawn[..., 3], 0, 1)
    if opacity.max() <= 0.5:  # Thin things fade when they are shrunk.
        opacity = opacity / max(opacity.max(), 1e-6)
    return opacity, 255 * drawn[..., :3] / np.maximum(drawn[..., 3:], 1e-3)


def portray_stamp(
    splits: dict[str, Sequence[tuple[int, Path]]], spec: StampsSpec, split: str, index: int
) -> tuple[int, str, Iterable[np.ndarray]]:
    """Draw the classification images of one stamp: it alone on a ground like the scenes'.

    Args:
        splits: Label and file of every stamp of a split.
        spec: What to draw.
        split: ``'train'`` or ``'val'``.
        index: Which stamp of it.

    Returns:
        Its label, a name for its files, and RGB images (S, S, 3) uint8.
    """
    label, path = splits[split][index]
    rng = generator(spec.seed, PORTRAIT, split, index)
    size = spec.scene.portrait_size

    def draw() -> np.ndarray:
        image = dark_ground(size, rng, spec.texture)
        side = rng.uniform(*spec.scene.portrait_height)
        opacity, colour = render_stamp(read_stamp(path), side, rng, spec)
        top, left = (int(rng.integers(size - length, endpoint=True)) for length in opacity.shape)
        blend(image, opacity, colour, top, left)
        return add_grain(image, rng, spec.texture)

    renders = spec.train_renders if split == 'train' else spec.val_renders
    return label, f'{index:04d}-{path.stem}', (draw() for _ in range(renders))


def compose_stamps(
    splits: dict[str, Sequence[tuple[int, Path]]], spec: StampsSpec, split: str, index: int
) -> Scene:
    """Draw one scene; every class is as likely, then every stamp of it.

    Args:
        splits: Label and file of every stamp of a split.
        spec: What to draw.
        split: ``'train'`` or ``'val'``.
        index: Which scene.
    """
    rng = generator(spec.seed, SCENE, split, index)
    by_label: dict[int, list[Path]] = {}
    for label, path in splits[split]:
        by_label.setdefault(label, []).append(path)
    image = dark_ground(spec.scene.scene_size, rng, spec.texture)
    count = rng.integers(*spec.scene.scene_digits, endpoint=True)

    def draw(side: float) -> Sprite:
        label = int(rng.integers(len(by_label)))
        path = by_label[label][int(rng.integers(len(by_label[label])))]
        opacity, colour = render_stamp(read_stamp(path), side, rng, spec)
        return Sprite(label, object_of(path), opacity, colour)

    return compose(image, count, draw, rng, spec.scene, spec.texture)
