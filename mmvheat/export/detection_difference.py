"""How far two runs of one detector are apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ['DetectionDifference', 'detection_difference']

# Boxes of one object: what suppression keeps of one class overlaps by far less.
SAME_OBJECT = 0.9

_Rows = dict[str, np.ndarray]


@dataclass(frozen=True)
class DetectionDifference:
    """What :func:`detection_difference` finds.

    Attributes:
        matched: Number of detections that both sides have.
        score: Largest difference of the score of a matched detection.
        box: Largest difference of a coordinate of a matched detection, in pixels.
        mask: Largest difference of a probability in its mask; 0 where there are no masks.
        ties: Detections of one side alone that a near-tie explains.
        unmatched: All other detections of one side alone, one line each.
        lost: Their share of the scores of both sides.
        outline: Share of the cells inside either mask of a matched detection that one of the two
            alone has inside; 0 where there are no masks.
    """

    matched: int
    score: float
    box: float
    mask: float
    ties: int
    unmatched: tuple[str, ...]
    lost: float
    outline: float

    def __str__(self) -> str:
        lines = [
            f'{self.matched} detections differ by at most {self.score:.2g} in score, '
            f'{self.box:.2g} pixels and {self.mask:.2g} in the mask; {self.ties} near-ties'
        ]
        return '; '.join((*lines, *self.unmatched[:3]))


def detection_difference(
    expected: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    tie: float = 1e-3,
    mask_threshold: float = 0.5,
) -> DetectionDifference:
    """Match detections by class and overlap, and measure the largest differences.

    Rounding decides near-ties: a score at the threshold, a score at that of the last row when all
    rows are used, an overlap at the threshold of suppression, two overlapping boxes of one class
    with one score, and what such a box suppresses in its turn. A detection of one side alone is
    excused where one of these holds within ``tie``. A near-tie between proposals of the first stage
    leaves no trace in the outputs and is not excused.

    Args:
        expected: ``boxes`` (N, K, 4), ``scores`` (N, K), ``labels`` (N, K), perhaps ``masks``
            (N, K, h, w); rows with label -1 are unused.
        found: The same of the other side.
        score_threshold: The detector's; what one side alone has below it does not count.
        iou_threshold: The detector's threshold of non-maximum suppression.
        tie: Difference of scores, or of overlaps, that counts as none.
        mask_threshold: Probability from which on a cell of a mask is inside.

    Raises:
        ValueError: If the two sides differ in names or shapes.
    """
    shapes = [{name: rows.shape for name, rows in side.items()} for side in (expected, found)]
    if shapes[0] != shapes[1]:
        raise ValueError(f'outputs of the shapes {shapes[1]} instead of {shapes[0]}')
    if not all(np.isfinite(rows).all() for side in (expected, found) for rows in side.values()):
        words = ('values that are not finite',)
        return DetectionDifference(0, np.inf, np.inf, np.inf, 0, words, np.inf, np.inf)
    matched, ties, unmatched = 0, 0, []
    lost, scores, differing, inside = 0.0, 0.0, 0, 0
    largest = dict(scores=0.0, boxes=0.0, masks=0.0)
    for image in range(len(expected['scores'])):
        sides = [_used(side, image) for side in (expected, found)]
        pairs = _match(*sides)
        matched += len(pairs)
        for name in largest.keys() & expected.keys():
            one, other = (side[name][[pair[i] for pair in pairs]] for i, side in enumerate(sides))
            largest[name] = max(largest[name], float(np.abs(one - other).max(initial=0)))
            if name == 'masks':
                one, other = one >= mask_threshold, other >= mask_threshold
                differing, inside = differing + (one ^ other).sum(), inside + (one | other).sum()
        alone = [
            sorted(set(range(len(side['scores']))) - {pair[i] for pair in pairs})
            for i, side in enumerate(sides)
        ]
        full = [len(side['scores']) == expected['scores'].shape[1] for side in sides]
        excused = _excused(sides, alone, full, score_threshold, iou_threshold, tie)
        ties += len(excused)
        scores += sum(side['scores'].sum() for side in sides)
        for i, word in enumerate(('missing', 'not expected')):
            for row in alone[i]:
                if (i, row) not in excused:
                    box = ', '.join(f'{x:.1f}' for x in sides[i]['boxes'][row])
                    label, score = sides[i]['labels'][row], sides[i]['scores'][row]
                    lost += score
                    unmatched.append(
                        f'{word} in image {image}: class {label}, score {score:.4f}, box ({box})'
                    )
    return DetectionDifference(
        matched=matched,
        score=largest['scores'],
        box=largest['boxes'],
        mask=largest['masks'],
        ties=ties,
        unmatched=tuple(unmatched),
        lost=float(lost / scores) if lost else 0.0,
        outline=float(differing / max(inside, 1)),
    )


def _used(side: Mapping[str, np.ndarray], image: int) -> _Rows:
    """The rows of an image that hold a detection, floats as float64."""
    rows = {name: values[image][side['labels'][image] >= 0] for name, values in side.items()}
    return {name: v.astype(np.float64) if name != 'labels' else v for name, v in rows.items()}


def _overlaps(one: _Rows, other: _Rows) -> np.ndarray:
    """IoU (K, L) of boxes; -1 where the labels differ."""
    first, second = one['boxes'][:, None], other['boxes'][None]
    corners = (
        np.minimum(first[..., 2:], second[..., 2:]),
        np.maximum(first[..., :2], second[..., :2]),
    )
    shared = np.maximum(corners[0] - corners[1], 0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (first, second)]
    iou = shared / np.maximum(areas[0] + areas[1] - shared, 1e-12)
    return np.where(one['labels'][:, None] == other['labels'][None], iou, -1)


def _match(expected: _Rows, found: _Rows) -> list[tuple[int, int]]:
    """Pairs of rows that are one detection: the best first, by overlap and score."""
    near = np.abs(expected['scores'][:, None] - found['scores'][None])
    overlaps = _overlaps(expected, found)
    fit = np.where(overlaps >= SAME_OBJECT, overlaps - near, -np.inf)
    pairs = []
    for row in range(len(fit)):
        best = int(fit[row].argmax()) if fit.shape[1] else 0
        if fit.shape[1] and np.isfinite(fit[row, best]):
            pairs.append((row, best))
            fit[:, best] = -np.inf
    return pairs


def _excused(
    sides: Sequence[_Rows],
    alone: Sequence[Sequence[int]],
    full: Sequence[bool],
    score_threshold: float,
    iou_threshold: float,
    tie: float,
) -> set[tuple[int, int]]:
    """Rows of one side alone, as (side, row), that a near-tie explains."""
    overlaps = _overlaps(*sides)
    excused: set[tuple[int, int]] = set()
    for i in (0, 1):
        other = sides[1 - i]['scores']
        lowest = max(score_threshold, other.min() if full[1 - i] else 0)
        for row in alone[i]:
            score, iou = sides[i]['scores'][row], overlaps[row] if i == 0 else overlaps[:, row]
            at_limit = np.abs(iou - iou_threshold) <= tie
            swapped = (iou > iou_threshold) & (np.abs(other - score) <= tie)
            if score <= lowest + tie or (at_limit | swapped).any():
                excused.add((i, row))
    # A box that is there by a near-tie suppresses others.
    before = -1
    while len(excused) > before:
        before = len(excused)
        for i in (0, 1):
            for row in alone[i]:
                iou = overlaps[row] if i == 0 else overlaps[:, row]
                if any(iou[r] > iou_threshold for side, r in excused if side == 1 - i):
                    excused = excused | {(i, row)}
    return excused
