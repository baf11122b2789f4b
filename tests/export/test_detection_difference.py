"""Differences of detections: what counts, and what a near-tie excuses."""

import numpy as np
import pytest

from mmvheat.export.detection_difference import detection_difference

ROWS = 4


def side(*rows: tuple[float, float, int], count: int = ROWS) -> dict[str, np.ndarray]:
    """Boxes of 10 x 10 by their left edge, score and label, in ``count`` rows."""
    found = dict(
        boxes=np.zeros((1, count, 4), np.float32),
        scores=np.zeros((1, count), np.float32),
        labels=np.full((1, count), -1),
        masks=np.zeros((1, count, 2, 2), np.float32),
    )
    for row, (left, score, label) in enumerate(rows):
        found['boxes'][0, row] = (left, 0, left + 10, 10)
        found['scores'][0, row], found['labels'][0, row] = score, label
    return found


def test_measures_what_both_have_in_any_order():
    expected = side((0, 0.9, 1), (50, 0.8, 1), (50, 0.7, 2))
    found = side((50, 0.7, 2), (0.25, 0.875, 1), (50, 0.8, 1))
    expected['masks'][0, 1, 0], found['masks'][0, 2] = 0.75, 0.5
    difference = detection_difference(expected, found)
    assert (difference.matched, difference.ties, difference.unmatched) == (3, 0, ())
    assert difference.score == pytest.approx(0.025)
    assert (difference.box, difference.mask) == (0.25, 0.5)
    # Two cells of four are inside on one side, all four on the other.
    assert (difference.lost, difference.outline) == (0, 0.5)


@pytest.mark.parametrize(
    ('expected', 'found'),
    [
        ([(0, 0.9, 1)], [(0, 0.9, 2)]),
        ([(0, 0.9, 1)], [(4, 0.9, 1)]),
        ([(0, 0.9, 1), (50, 0.8, 1)], [(0, 0.9, 1)]),
        ([(0, 0.9, 1)], [(0, 0.9, 1), (0, 0.89, 1)]),
        ([], [(0, 0.9, 1)]),
    ],
    ids=['class', 'place', 'missing', 'twice', 'of none'],
)
def test_names_what_one_side_has_alone(expected: list, found: list):
    difference = detection_difference(side(*expected), side(*found))
    alone = abs(len(expected) - len(found)) or 2
    assert len(difference.unmatched) == alone and difference.ties == 0
    assert 'class 1' in difference.unmatched[0]
    scores = [[score for _, score, _ in one] for one in (expected, found)]
    lost = 2 * 0.9 if alone == 2 else abs(sum(scores[0]) - sum(scores[1]))
    assert difference.lost == pytest.approx(lost / (sum(scores[0]) + sum(scores[1])))


@pytest.mark.parametrize(
    ('expected', 'found', 'rows'),
    [
        # A score at the threshold.
        ([(0, 0.9, 1), (50, 0.0501, 1)], [(0, 0.9, 1)], ROWS),
        # The last row, whose score another had.
        ([(0, 0.9, 1), (50, 0.5001, 1)], [(0, 0.9, 1), (80, 0.5, 2)], 2),
        # An overlap at the threshold of suppression: 20 / 3 of 10 pixels are half of the union.
        ([(0, 0.9, 1), (10 / 3, 0.8, 1)], [(0, 0.9, 1)], ROWS),
        # Overlapping boxes with one score, and what the first suppresses.
        ([(0, 0.9, 1), (5, 0.4, 1)], [(2, 0.9, 1)], ROWS),
    ],
    ids=['threshold', 'rows', 'overlap', 'order'],
)
def test_excuses_near_ties(expected: list, found: list, rows: int):
    sides = side(*expected, count=rows), side(*found, count=rows)
    for one, other in (sides, sides[::-1]):
        difference = detection_difference(one, other)
        assert difference.unmatched == () and difference.ties > 0
    # The same with scores or overlaps that are no tie.
    sides[0]['scores'][0, 0] += 0.05
    sides[0]['scores'][0, 1] += 0.02
    sides[0]['boxes'][0, 1, :2] += 0.1
    assert detection_difference(*sides).unmatched


def test_refuses_other_outputs_and_numbers_that_are_none():
    good, bad = side((0, 0.9, 1)), side((0, 0.9, 1))
    bad['masks'][0, 3, 0, 0] = np.nan
    assert detection_difference(good, bad).score == np.inf
    with pytest.raises(ValueError, match='shapes'):
        detection_difference(good, side((0, 0.9, 1), count=7))
