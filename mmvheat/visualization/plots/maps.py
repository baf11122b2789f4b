"""Pictures of feature maps and of class activations."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize

from .style import HEAT, SIGNED, STRENGTH, Figure, make_panels, show_map, styled

__all__ = ['plot_activations', 'plot_features']


@styled
def plot_features(
    maps: Sequence[np.ndarray],
    image: np.ndarray,
    image_size: tuple[int, int],
    title: str,
    channels: int = 4,
) -> Figure:
    """Draw the maps of stages: their strength, and the channels that vary most.

    Args:
        maps: Map of shape (H_i, W_i, C_i) for each stage, see :func:`.stage_maps`.
        image: The image, of shape (H, W, 3).
        image_size: Height and width that the maps are of: the image's, with its padding.
        title: Title of the picture.
        channels: How many channels to draw.
    """
    size = image_size
    figure, panels = make_panels(len(maps), channels + 2, title, aspect=size[0] / size[1])
    for i, (row, values) in enumerate(zip(panels, maps, strict=True)):
        show_map(row[0], image, image.shape[:2])
        strength = np.sqrt(np.square(values).mean(-1))
        coloured = show_map(row[1], strength, size, STRENGTH)
        figure.colorbar(coloured, ax=row[1])
        most = values.std((0, 1)).argsort()[::-1][:channels]
        limit = max(np.abs(values[..., most]).max(), 1e-9)
        for axes, channel in zip(row[2:], most, strict=False):
            shown = show_map(axes, values[..., channel], size, SIGNED, Normalize(-limit, limit))
            axes.set_title(f'channel {channel}')
        for axes in row[2 + len(most) :]:
            axes.set_axis_off()
        figure.colorbar(shown, ax=list(row[2:])).set_label('value')
        row[0].set_ylabel(f'stage {i}\n{values.shape[0]} × {values.shape[1]}\nrow (px)')
        row[1].set_title('rms of channels')
    panels[0, 0].set_title('image')
    for axes in panels[-1]:
        axes.set_xlabel('column (px)')
    return figure


@styled
def plot_activations(
    maps: Sequence[np.ndarray], names: Sequence[str], image: np.ndarray, title: str
) -> Figure:
    """Draw class activation maps over an image.

    Args:
        maps: Of shape (H, W) each, in [0, 1], see :func:`.class_activation`.
        names: Name of each.
        image: The image, of shape (H, W, 3).
        title: Title of the picture.
    """
    size = image.shape[:2]
    aspect = size[0] / size[1]
    figure, panels = make_panels(1, len(maps) + 1, title, size=2.6, aspect=aspect)
    show_map(panels[0, 0], image, size)
    grey = image.astype(float).mean(-1)
    for axes, values, name in zip(panels[0, 1:], maps, names, strict=True):
        show_map(axes, grey, size, 'gray', Normalize(0, 255))
        coloured = axes.imshow(
            values, cmap=HEAT, norm=Normalize(0, 1), alpha=0.6, extent=(0, size[1], size[0], 0)
        )
        axes.set_title(name)
    panels[0, 0].set(title='image', ylabel='row (px)')
    for axes in panels[0]:
        axes.set_xlabel('column (px)')
    bar = figure.colorbar(coloured, ax=list(panels[0, 1:]))
    bar.set_label('activation\n(share of the largest)')
    return figure
