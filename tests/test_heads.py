"""Heads of mmdet and mmseg behind vHeat, without a compiled mmcv, as the page lists them."""

import traceback
from pathlib import Path

import pytest
from heads import HEADS, NEEDS, PAGE, REFUSED, Head, page, row, train_and_predict

pytestmark = pytest.mark.slow  # a second a head

LINES = [line for line in PAGE.read_text().splitlines() if line.startswith('| `')]
ROWS = LINES[: -len(REFUSED)]


@pytest.mark.parametrize('head', HEADS, ids=lambda head: head.name)
def test_a_head_trains_and_predicts_as_its_line_says(head):
    if head.name in NEEDS:
        pytest.importorskip(NEEDS[head.name])
    assert row(head) in ROWS


@pytest.mark.parametrize('name', REFUSED)
def test_a_head_that_needs_its_own_backbone_fails_where_it_reads_it(name):
    head = Head(name, 'refused')
    with pytest.raises((AttributeError, AssertionError, RuntimeError)) as raised:
        train_and_predict(head)
    frames = [Path(frame.filename) for frame in traceback.extract_tb(raised.value.__traceback__)]
    library = [path for path in frames if head.library in path.parts]
    assert library[-1].name == REFUSED[name][1]


def test_the_page_lists_all_heads():
    assert [line.split('`')[1] for line in ROWS] == [head.name for head in HEADS]
    assert PAGE.read_text() == page(ROWS)
