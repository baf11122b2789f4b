"""The one style of all pictures: colours that colour-blind people can tell apart, sizes, fonts.

Figures are made without pyplot: nothing global is left behind, and any thread may draw.
"""

import io
import math
import os
import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from mmvheat.errors import UserError

__all__ = [
    'DIFFUSIVITY',
    'FADED',
    'HEAT',
    'LINES',
    'SIGNED',
    'STRENGTH',
    'Figure',
    'figure_png',
    'make_panels',
    'save_figure',
    'show_frequencies',
    'show_map',
    'styled',
]

# They grow evenly in lightness, or from the middle on; none needs red told from green.
# Grey is below 0: no heat, but less than there was.
HEAT = matplotlib.colormaps['inferno'].with_extremes(under='black', bad='#7f8c9b')
DIFFUSIVITY = matplotlib.colormaps['viridis']
FADED = STRENGTH = matplotlib.colormaps['cividis']
SIGNED = matplotlib.colormaps['PuOr_r']
# Okabe and Ito, Color Universal Design (2008), without its yellow, which is faint on white.
LINES = ('#0072b2', '#e69f00', '#009e73', '#d55e00', '#cc79a7', '#56b4e9', '#000000')

_STYLE = {
    'axes.labelsize': 9,
    'axes.prop_cycle': matplotlib.cycler(color=LINES),
    'axes.spines.right': False,
    'axes.spines.top': False,
    'axes.titlesize': 10,
    'figure.constrained_layout.use': True,
    'figure.dpi': 100,
    'figure.titlesize': 12,
    'font.family': 'DejaVu Sans',
    'font.size': 9,
    'grid.alpha': 0.3,
    'image.interpolation': 'nearest',
    'legend.fontsize': 8,
    'legend.frameon': False,
    'lines.markersize': 4,
    'savefig.dpi': 120,
    # Text stays text, and the same picture gives the same file.
    'svg.fonttype': 'none',
    'svg.hashsalt': 'mmvheat',
    'xtick.labelsize': 8,
    'ytick.labelsize': 8,
}
# The parameters are global in matplotlib.
_LOCK = threading.RLock()
_Given = ParamSpec('_Given')
_Result = TypeVar('_Result')


def styled(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """Let a function draw in this style, one thread at a time."""

    @wraps(function)
    def wrapper(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        with _LOCK, matplotlib.rc_context(_STYLE):
            return function(*args, **kwargs)

    return wrapper


@styled
def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a picture, whole or not at all.

    Args:
        figure: The picture.
        path: A name that ends in ``.png`` or ``.svg``, in a folder that is there.

    Raises:
        UserError: If it cannot be written.
    """
    path = Path(path)
    part = path.with_name(f'.{path.name}.part')
    # Without a date the same picture gives the same file.
    metadata = {'Date': None} if path.suffix == '.svg' else None
    try:
        figure.savefig(part, format=path.suffix[1:], metadata=metadata)
        part.replace(path)
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror}') from error
    finally:
        part.unlink(missing_ok=True)


@styled
def figure_png(figure: Figure) -> bytes:
    """Draw a picture as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format='png')
    return content.getvalue()


def make_panels(
    rows: int, columns: int, title: str, size: float = 2.1, aspect: float = 1.0
) -> tuple[Figure, np.ndarray]:
    """Make a figure of panels; call it from a function that is :func:`styled`.

    Args:
        rows: Rows of panels.
        columns: Panels in each.
        title: Title of the whole.
        size: Width and height of a square panel, in inches; others have its area.
        aspect: Height of a panel over its width.

    Returns:
        The figure, and its axes as an array of shape (rows, columns).
    """
    # Names beside and above a panel need room, however flat or narrow it is.
    aspect = min(max(aspect, 0.3), 3)
    width, height = (max(size * math.sqrt(part), 1.6) for part in (1 / aspect, aspect))
    # The title needs some, too.
    width = max(columns * (width + 0.35) + 1, 6)
    figure = Figure(figsize=(width, rows * (height + 0.4) + 0.7))
    figure.suptitle(title)
    return figure, figure.subplots(rows, columns, squeeze=False)


def show_map(
    axes: Axes,
    values: np.ndarray,
    image_size: tuple[int, int],
    cmap: Colormap | None = None,
    norm: Normalize | None = None,
) -> AxesImage:
    """Show a map over the image that it is of, with the image's pixels on the axes.

    Args:
        axes: Where to show it.
        values: Shape (h, w), or (H, W, 3) for an image.
        image_size: Height and width of the image.
        cmap: Colours of the values.
        norm: Range of the values.
    """
    height, width = image_size
    axes.set(xticks=[0, width], yticks=[0, height])
    axes.spines[:].set_visible(False)
    return axes.imshow(values, cmap=cmap, norm=norm, extent=(0, width, height, 0))


def show_frequencies(
    axes: Axes, values: np.ndarray, cmap: Colormap, norm: Normalize | None = None
) -> AxesImage:
    """Show a value a frequency (H, W): the constant one at the top left, in radians a cell."""
    height, width = values.shape
    down, right = math.pi / height, math.pi / width
    edges = (-right / 2, math.pi - right / 2, math.pi - down / 2, -down / 2)
    ticks = {'ticks': [0, math.pi / 2], 'labels': ['0', 'π/2']}
    axes.set_xticks(**ticks)
    axes.set_yticks(**ticks)
    axes.spines[:].set_visible(False)
    shown = axes.imshow(values, cmap=cmap, norm=norm, extent=edges, aspect='auto')
    axes.set(xlim=edges[:2], ylim=edges[2:])
    return shown
