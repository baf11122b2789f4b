"""Pictures of what was timed, in the style of all pictures of the project."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from timing import Spread, Timed

from mmvheat.visualization.plots.style import LINES, make_panels, styled

_NO_SPREAD = {'fmt': 'none', 'ecolor': 'black', 'elinewidth': 1, 'capsize': 2}


class _Figure(NamedTuple):
    """How a figure is shown: the axis' label, and what a unit of it is."""

    label: str
    unit: float = 1.0


_FIGURES = {
    'seconds': _Figure('time of a call (ms)', 1e-3),
    'images_per_second': _Figure('images/s'),
    'peak_bytes': _Figure('peak memory (GiB)', 2**30),
    'flops': _Figure('multiply-adds (G)', 1e9),
    'share_of_copy': _Figure('speed (share of a copy of the same bytes)'),
}


@styled
def draw_bars(
    rows: Sequence[Timed],
    title: str = 'Speed against the baseline: median, quartiles',
    size: float = 4.2,
) -> Figure:
    """Draw how many times as fast as the baseline each candidate is, with quartiles.

    Args:
        rows: A panel for each measure, bars side by side for each group. Quartiles that are both
            the median are not drawn: there was one sample, or they were not kept.
        title: Title of the whole.
        size: Of a panel, in inches.
    """
    measures = list(dict.fromkeys(row.measure for row in rows))
    figure, panels = _make(measures, title, size)
    names = list(dict.fromkeys(row.name for row in rows))
    colours = dict(zip(names, LINES * len(names), strict=False))
    for axes, measure in zip(panels, measures, strict=False):
        own = [row for row in rows if row.measure == measure]
        groups = list(dict.fromkeys(row.group for row in own))
        # Those that have no bar here leave no room.
        here = [name for name in names if any(row.name == name for row in own)]
        width = 0.8 / max(len(here), 2)
        for i, name in enumerate(here):
            of_name = [row for row in own if row.name == name]
            shift = (i - (len(here) - 1) / 2) * width
            places = [groups.index(row.group) + shift for row in of_name]
            ratios = [row.ratio for row in of_name]
            heights = [ratio.median for ratio in ratios]
            axes.bar(places, heights, width * 0.92, label=name, color=colours[name])
            axes.errorbar(places, heights, _beyond(ratios), **_NO_SPREAD)
            for place, ratio in zip(places, ratios, strict=True):
                # As many digits as the tables of the docs have.
                digits = 2 if ratio.median < 3 else 1
                axes.annotate(
                    f'{ratio.median:.{digits}f}', (place, ratio.high), (0, 2), fontsize=8,
                    textcoords='offset points', ha='center',
                )  # fmt: skip
        axes.axhline(1, color='black', lw=0.8, ls=':')
        axes.margins(y=0.1)
        baselines = dict.fromkeys(row.baseline for row in own)
        axes.set(title=measure, ylabel=f'times as fast as {", ".join(baselines)}')
        axes.set_xticks(range(len(groups)), groups)
        axes.set_xlim(-0.6, len(groups) - 0.4)
    _add_legend(figure, panels)
    return figure


@styled
def draw_curves(rows: Sequence[Timed], keys: Sequence[str]) -> Figure:
    """Draw figures over the groups, the quartiles as bands; both axes are logarithmic.

    Args:
        rows: What was timed; curves are of a candidate, in a panel for each measure and figure.
        keys: Which attributes or figures.
    """
    measures = list(dict.fromkeys(row.measure for row in rows))
    values = {
        (measure, key): [
            (row, value)
            for row in sorted(rows, key=lambda row: _size(row.group))
            if row.measure == measure and (value := _spread(row, key)) is not None
        ]
        for measure in measures
        for key in keys
    }
    values = {panel: found for panel, found in values.items() if found}
    figure, panels = _make(list(values), 'Median, and quartiles as bands', 4.2)
    names = list(dict.fromkeys(row.name for row in rows))
    for axes, ((measure, key), found) in zip(panels, values.items(), strict=False):
        groups = list(dict.fromkeys(row.group for row, _ in found))
        # Sides of square images have their places on the axis; others stand side by side.
        numbers = all(group.isdecimal() for group in groups)
        places = [int(group) if numbers else i for i, group in enumerate(groups)]
        for name, colour in zip(names, LINES * len(names), strict=False):
            own = [(places[groups.index(row.group)], value) for row, value in found
                   if row.name == name]  # fmt: skip
            across = [place for place, _ in own]
            axes.plot(across, [one.median for _, one in own], 'o-', color=colour, label=name)
            low, high = ([getattr(one, end) for _, one in own] for end in ('low', 'high'))
            axes.fill_between(across, low, high, color=colour, alpha=0.25, lw=0)
        axes.set(title=measure, yscale='log', ylabel=_FIGURES[key].label)
        if numbers:
            axes.set(xscale='log', xlabel='side of the images (px)')
        axes.set_xticks(places, groups, rotation=45)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid()
    _add_legend(figure, panels)
    return figure


def _make(panels: Sequence[object], title: str, size: float) -> tuple[Figure, Sequence[Axes]]:
    figure, axes = make_panels(1, max(1, len(panels)), title, size, aspect=0.75)
    return figure, axes[0]


def _add_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    entries = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    if entries:
        options = dict(loc='outside lower center', ncols=len(entries))
        figure.legend(entries.values(), entries, **options)


def _spread(row: Timed, key: str) -> Spread | None:
    """A figure of a candidate, in the unit that is shown; None if it has none."""
    value = (vars(row) | row.figures).get(key)
    if value is None:
        return None
    if not isinstance(value, Spread):
        # A rate is that of the median time, and spreads as the time does.
        fast, slow = row.seconds.low, row.seconds.high
        of_time = key.endswith('_per_second')
        ends = (row.seconds.median / time for time in (slow, fast)) if of_time else (1, 1)
        value = Spread(value, *(value * end for end in ends))
    return value * (1 / _FIGURES[key].unit)


def _beyond(spreads: Sequence[Spread]) -> np.ndarray:
    """How far the quartiles are below and above the medians; NaN, which is not drawn, for none."""
    ends = np.array([(one.median - one.low, one.high - one.median) for one in spreads]).T
    return np.where(ends.any(0), ends, np.nan)


def _size(group: str) -> int:
    """Product of the numbers in the name of a group."""
    return math.prod(map(int, re.findall(r'\d+', group)))
