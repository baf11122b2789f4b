"""Pictures of the study, in the style of all pictures of the project."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mmvheat.visualization.plots.style import LINES, make_panels, save_figure, styled

__all__ = ['PICTURES', 'draw_costs', 'draw_gains', 'save']

_MARKERS = 'osD^vP*X<>hd'


@styled
def draw_costs(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw accuracy against multiply-adds, and against measured time.

    Args:
        points: Of every model its ``name``, ``values`` by seed, ``flops``, and ``milliseconds`` an
            image: median and quartiles.
    """
    title = 'Fashion-MNIST: mean over seeds, and their standard deviation'
    figure, axes = make_panels(1, 2, title, 4.2, aspect=0.8)
    for number, point in enumerate(points):
        values = point['values']
        mean = statistics.mean(values)
        spread = statistics.stdev(values) if len(values) > 1 else 0
        median, low, high = point['milliseconds']
        style = {
            'color': LINES[number % len(LINES)], 'marker': _MARKERS[number % len(_MARKERS)],
            'ls': 'none', 'elinewidth': 1, 'capsize': 2, 'label': point['name'],
        }  # fmt: skip
        axes[0, 0].errorbar([point['flops'] / 1e6], [mean], [spread], **style)
        across = [[median - low], [high - median]]
        axes[0, 1].errorbar([median], [mean], [spread], across, **style)
    axes[0, 0].set(xlabel='multiply-adds of inference (M)', ylabel='top-1 (%)')
    axes[0, 1].set(xlabel='time of one core (ms an image, quartiles)', ylabel='top-1 (%)')
    for panel in axes[0]:
        panel.grid()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=min(len(labels), 6))
    return figure


@styled
def draw_gains(panels: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw figures over the length of the training, one curve for each start.

    Args:
        panels: Of every picture its ``title``, its ``figure``'s name, and ``curves``: by the
            start's name a mapping of iterations to values by seed.
    """
    title = 'Mean over seeds, and each of them'
    figure, axes = make_panels(1, len(panels), title, 2.4, aspect=1.0)
    # A start has one colour in all pictures, also where the other one has no run yet.
    names = [*dict.fromkeys(name for content in panels for name in content['curves'])]
    drawn: dict[str, Any] = {}
    for panel, content in zip(axes[0], panels, strict=True):
        for name, curve in content['curves'].items():
            color, marker = LINES[names.index(name)], _MARKERS[names.index(name)]
            means = [statistics.mean(values) for values in curve.values()]
            (drawn[name],) = panel.plot([*curve], means, color=color, marker=marker)
            for iterations, values in curve.items():
                panel.plot([iterations] * len(values), values, '.', color=color, alpha=0.5)
        panel.set(
            title=content['title'], xlabel='iterations', ylabel=content['figure'],
            xticks=sorted({length for curve in content['curves'].values() for length in curve}),
        )  # fmt: skip
        panel.margins(x=0.15)
        panel.grid()
    figure.legend([*drawn.values()], [*drawn], loc='outside lower center', ncols=len(drawn))
    return figure


# By sub-study.
PICTURES = {'ablation': draw_costs, 'downstream': draw_gains}


def save(figure: Figure, path: Path) -> None:
    """Write a picture, and the folder that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path)
