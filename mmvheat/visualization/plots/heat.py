"""Pictures of heat that spreads from a point."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LogNorm

from .style import HEAT, Figure, make_panels, show_map, styled

__all__ = ['heat_scale', 'plot_point_heat', 'without_cold']


def heat_scale(temperature: np.ndarray) -> LogNorm:
    """Choose the colours of a map of temperatures: 1, and a quarter of what all have in the end."""
    return LogNorm(0.25 * float(temperature.mean()), 1)


def without_cold(temperature: np.ndarray, norm: LogNorm) -> np.ma.MaskedArray:
    """Mask the cells that are clearly below 0, which a logarithm has no colour for."""
    return np.ma.masked_less(temperature, -norm.vmin).clip(norm.vmin / 2)


@styled
def plot_point_heat(
    maps: Sequence[np.ndarray],
    times: Sequence[float],
    names: Sequence[str],
    image_size: tuple[int, int],
    pixel: tuple[int, int],
    title: str,
    image: np.ndarray | None = None,
) -> Figure:
    """Draw how the heat of a cell spreads, a row for each block and a column for each time.

    Args:
        maps: Temperatures of shape (T, H_i, W_i) for each block, see :func:`.point_heat`.
        times: The T times.
        names: Name of each block.
        image_size: Height and width of the images in pixels.
        pixel: Row and column of the source in the image.
        title: Title of the picture.
        image: The image itself, of shape (H, W, 3), if there is one.

    Returns:
        The picture. Black is near 0, grey below it.
    """
    columns = len(times) + (image is not None)
    aspect = image_size[0] / image_size[1]
    figure, panels = make_panels(len(maps), columns, title, aspect=aspect)
    for row, of_block, name in zip(panels, maps, names, strict=True):
        if image is not None:
            show_map(row[0], image, image.shape[:2])
            row[0].plot(pixel[1] + 0.5, pixel[0] + 0.5, '+', color='white', ms=13, mew=3)
            row[0].plot(pixel[1] + 0.5, pixel[0] + 0.5, '+', color='black', ms=12, mew=1.2)
        row[0].set_ylabel(f'{name}\nrow (px)')
        norm = heat_scale(of_block[0])
        for axes, temperature in zip(row[-len(times) :], of_block, strict=True):
            shown = without_cold(temperature, norm)
            coloured = show_map(axes, shown, image_size, HEAT, norm)
        bar = figure.colorbar(coloured, ax=list(row[-len(times) :]), extend='min')
        bar.set_label('temperature\n(grey: negative)')
    for axes, time in zip(panels[0, -len(times) :], times, strict=True):
        axes.set_title(f't = {time:g}')
    if image is not None:
        panels[0, 0].set_title('image and source')
    for axes in panels[-1]:
        axes.set_xlabel('column (px)')
    return figure
