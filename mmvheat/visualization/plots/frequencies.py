"""Pictures of values over frequencies: diffusivity, decay, spectra."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LogNorm, Normalize

from mmvheat.visualization.frequencies import radial_profile

from .style import DIFFUSIVITY, FADED, STRENGTH, Figure, make_panels, show_frequencies, styled

__all__ = ['plot_decay', 'plot_diffusivity', 'plot_spectrum']

_ACROSS, _DOWN, _LENGTH = (f'$\\omega{letter}$ (rad/cell)' for letter in ('_m', '_n', ''))


@styled
def plot_diffusivity(maps: Sequence[np.ndarray], names: Sequence[str], title: str) -> Figure:
    """Draw k(n, m), a row for each block or size, a column for each group of channels.

    Args:
        maps: Mean diffusivity of shape (G, H_i, W_i) for each row, see :func:`.group_means`.
        names: Name of each row.
        title: Title of the picture.
    """
    figure, panels = make_panels(len(maps), len(maps[0]), title)
    _name_groups(panels)
    for row, groups, name in zip(panels, maps, names, strict=True):
        finite = groups[np.isfinite(groups)]
        norm = Normalize(0, max(finite.max(initial=0), 1e-6))
        for axes, values in zip(row, groups, strict=True):
            coloured = show_frequencies(axes, values, DIFFUSIVITY, norm)
        row[0].set_ylabel(f'{name}\n{_DOWN}')
        figure.colorbar(coloured, ax=list(row)).set_label('k (cells²)')
    return figure


@styled
def plot_decay(maps: Sequence[np.ndarray], names: Sequence[str], title: str) -> Figure:
    """Draw what is left of each frequency, as maps and, in the last column, by its length.

    Args:
        maps: Mean decay of shape (G, H_i, W_i) for each row, see :func:`.group_means`.
        names: Name of each row.
        title: Title of the picture.
    """
    groups = len(maps[0])
    figure, panels = make_panels(len(maps), groups + 1, title)
    _name_groups(panels[:, :-1])
    for row, of_block, name in zip(panels, maps, names, strict=True):
        for axes, values in zip(row, of_block, strict=False):
            coloured = show_frequencies(axes, values, FADED, Normalize(0, 1))
        for values, group in zip(of_block, _group_names(groups), strict=True):
            row[-1].plot(*radial_profile(values), 'o-', label=group)
        row[0].set_ylabel(f'{name}\n{_DOWN}')
        row[-1].set(ylim=(0, 1.05))
        row[-1].grid()
        row[-1].set_ylabel('left')
    panels[0, -1].set_title('by length')
    panels[0, -1].legend(loc='lower left')
    panels[-1, -1].set_xlabel(_LENGTH)
    bar = figure.colorbar(coloured, ax=panels[:, :-1], location='bottom', aspect=40, shrink=0.6)
    bar.set_label('left of the frequency: exp(−k (ω$_n$² + ω$_m$²))')
    return figure


@styled
def plot_spectrum(
    before: Sequence[np.ndarray], after: Sequence[np.ndarray], names: Sequence[str], title: str
) -> Figure:
    """Draw spectra of maps before and after conduction, as maps and by the frequency's length.

    Args:
        before: Magnitude of shape (H_i, W_i) for each row, see :func:`.magnitude_spectrum`.
        after: The same, after conduction.
        names: Name of each row.
        title: Title of the picture.
    """
    figure, panels = make_panels(len(before), 4, title, size=2.4)
    for row, one, other, name in zip(panels, before, after, names, strict=True):
        largest = one.max() or 1
        norm = LogNorm(np.clip(min(one.min(), other.min()), largest / 1e6, largest / 10), largest)
        for axes, values in zip(row, (one, other), strict=False):
            coloured = show_frequencies(axes, values, STRENGTH, norm)
        figure.colorbar(coloured, ax=list(row[:2])).set_label('magnitude')
        left = np.divide(other, one, out=np.ones_like(one), where=one > 0)
        shown = show_frequencies(row[2], left, FADED, Normalize(0, 1))
        figure.colorbar(shown, ax=row[2]).set_label('after / before')
        for values, label in ((one, 'before'), (other, 'after')):
            row[3].plot(*radial_profile(values), 'o-', label=label)
        row[3].set(yscale='log' if one.any() else 'linear', ylabel='magnitude')
        row[3].grid()
        row[0].set_ylabel(f'{name}\n{_DOWN}')
    heads = ('before conduction', 'after', 'what is left', 'by length')
    for axes, head in zip(panels[0], heads, strict=True):
        axes.set_title(head)
    for axes in panels[-1, :3]:
        axes.set_xlabel(_ACROSS)
    panels[-1, 3].set_xlabel(_LENGTH)
    panels[0, 3].legend()
    return figure


def _name_groups(panels: np.ndarray) -> None:
    for axes, name in zip(panels[0], _group_names(panels.shape[1]), strict=True):
        axes.set_title(name)
    for axes in panels[-1]:
        axes.set_xlabel(_ACROSS)


def _group_names(count: int) -> list[str]:
    """Name groups of channels, from the least conducting to the most."""
    if count == 1:
        return ['all channels']
    edges = [f'{100 * i / count:.0f}' for i in range(count + 1)]
    names = [f'channels {low}–{high} %' for low, high in zip(edges, edges[1:], strict=False)]
    names[0] += '\n(conduct least)'
    names[-1] += '\n(conduct most)'
    return names
