"""The pictures of the benchmarks show what was measured, with its spread."""

import numpy as np
import pytest
from matplotlib.figure import Figure


@pytest.fixture
def rows(load) -> list:
    """Two measures of two candidates at three sizes; throughput in images a second."""
    timing = load('timing')
    made = []
    rng = np.random.default_rng(0)
    for measure in ('throughput', 'latency'):
        for side in (64, 1024, 256):
            for name in ('ours', 'other'):
                seconds = timing.Spread.of((side / 1e4 * rng.uniform(0.5, 2, 5)).tolist())
                ratio = timing.Spread.of(rng.uniform(0.5, 4, 5).tolist())
                rate = {'images_per_second': 8 / seconds.median}
                made.append(
                    timing.Timed(measure, str(side), name, [], seconds, 'ours', ratio, rate)
                )
    return made


def _panels(figure: Figure) -> dict:
    return {axes.get_title(): axes for axes in figure.axes}


def test_bars_are_ratios_with_their_quartiles(load, rows) -> None:
    panels = _panels(load('plotting').draw_bars(rows))
    assert list(panels) == ['throughput', 'latency']
    for measure, axes in panels.items():
        assert axes.get_ylabel() == 'times as fast as ours'
        for name, bars, errors in zip(
            ('ours', 'other'), axes.containers[::2], axes.containers[1::2], strict=True
        ):
            own = [row.ratio for row in rows if (row.measure, row.name) == (measure, name)]
            assert bars.get_label() == name
            assert [bar.get_height() for bar in bars] == [ratio.median for ratio in own]
            ends = [line[:, 1].tolist() for line in errors.lines[2][0].get_segments()]
            expected = [[ratio.low, ratio.high] for ratio in own]
            np.testing.assert_allclose(ends, expected)


def test_a_candidate_that_did_not_run_leaves_no_room_and_keeps_its_colour(load, rows) -> None:
    rows = [row for row in rows if (row.measure, row.name) != ('throughput', 'ours')]
    figure = load('plotting').draw_bars(rows)
    panels = _panels(figure)
    alone, both = panels['throughput'], panels['latency']
    assert [bar.get_x() + bar.get_width() / 2 for bar in alone.patches] == pytest.approx([0, 1, 2])
    (legend,) = figure.legends
    found = {
        text.get_text(): patch.get_facecolor()
        for text, patch in zip(legend.get_texts(), legend.get_patches(), strict=True)
    }
    for axes in panels.values():
        for bars in axes.containers[::2]:
            assert {bar.get_facecolor() for bar in bars} == {found[bars.get_label()]}
    assert len(both.containers) == 4 and len(set(found.values())) == 2


def test_curves_are_medians_between_their_quartiles(load, rows) -> None:
    figure = load('plotting').draw_curves(rows, ('images_per_second', 'peak_bytes'))
    panels = _panels(figure)
    # Nothing was measured of memory.
    assert len(figure.axes) == 2 and panels['latency'].get_ylabel() == 'images/s'
    for name, line in zip(('ours', 'other'), panels['throughput'].lines, strict=True):
        own = [row for row in rows if (row.measure, row.name) == ('throughput', name)]
        own.sort(key=lambda row: int(row.group))
        assert line.get_xdata().tolist() == [64, 256, 1024]
        np.testing.assert_allclose(line.get_ydata(), [8 / row.seconds.median for row in own])
    bands = panels['throughput'].collections
    for name, band in zip(('ours', 'other'), bands, strict=True):
        own = [row for row in rows if (row.measure, row.name) == ('throughput', name)]
        reached = band.get_paths()[0].vertices
        for row in own:
            at = reached[reached[:, 0] == int(row.group), 1]
            np.testing.assert_allclose(at.min(), 8 / row.seconds.high)
            np.testing.assert_allclose(at.max(), 8 / row.seconds.low)


def test_without_rows_the_picture_is_empty(load) -> None:
    plotting = load('plotting')
    for figure in (plotting.draw_bars([]), plotting.draw_curves([], ('seconds',))):
        assert len(figure.axes) == 1 and not figure.axes[0].lines[1:]
