"""Digits composed into images: one alone for classification, several in a scene."""

from typing import NamedTuple

import numpy as np

from .digits import Digits, render_digit
from .spec import DigitsSpec, SceneStyle
from .texture import add_grain, blend, colour_of_luma, dark_ground

__all__ = ['Instance', 'Scene', 'compose_portrait', 'compose_scene']

_NOBODY = -1


class Instance(NamedTuple):
    """One digit of a scene.

    Attributes:
        label: The digit, 0 to 9.
        source: Its position in scikit-learn's ``load_digits``.
        mask: What is seen of it, (H, W) bool.
    """

    label: int
    source: int
    mask: np.ndarray


class Scene(NamedTuple):
    """A composed scene.

    Attributes:
        image: RGB, (H, W, 3) uint8.
        instances: Its digits, the earlier below the later.
        semantic: ADE20K-style labels, (H, W) uint8: 0 void (unused), 1 ground, 2 + digit.
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
    style = spec.scene
    size = style.scene_size
    image = dark_ground(size, rng, spec.texture)
    count = rng.integers(*style.scene_digits, endpoint=True)
    heights = np.sort(rng.uniform(*style.scene_height, count))[::-1]
    owner = np.full((size, size), _NOBODY, np.int64)
    areas: list[int] = []
    members: list[int] = []
    for height in heights:
        member = int(rng.integers(len(digits.labels)))
        opacity = render_digit(digits.images[member], height, rng, spec.digit, max_side=size)
        colour = colour_of_luma(rng.uniform(*spec.digit.luma), rng)
        mask = opacity > 0.5
        position = _find_place(mask, owner, areas, rng, style)
        if position is None:
            continue
        top, left = position
        blend(image, opacity, colour, top, left)
        owner[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = len(members)
        areas.append(int(mask.sum()))
        members.append(member)

    labels = digits.labels[members]
    instances = [
        Instance(int(digits.labels[member]), int(digits.sources[member]), owner == number)
        for number, member in enumerate(members)
    ]
    # The ground is number -1, so it looks up the last entry.
    semantic = np.append(labels + 2, 1).astype(np.uint8)[owner]
    return Scene(add_grain(image, rng, spec.texture), instances, semantic)


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
