"""Pictures of effective receptive fields."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from mmvheat.visualization.receptive_field import SHARES, growing_squares, squares

from .style import HEAT, LINES, Figure, make_panels, show_map, styled

__all__ = ['plot_receptive_fields']


@styled
def plot_receptive_fields(fields: Sequence[np.ndarray], names: Sequence[str], title: str) -> Figure:
    """Draw receptive fields with the squares that hold 20, 30, 50, 99 % of them, and the curves.

    Args:
        fields: Of shape (H, W) each, see :func:`.receptive_field`.
        names: Name of each.
        title: Title of the picture.
    """
    figure, panels = make_panels(1, len(fields) + 1, title, size=2.6)
    figure.suptitle(f'{title}; squares hold {", ".join(f"{share:.0%}" for share in SHARES)}')
    *maps, curve = panels[0]
    for axes, field, name, colour in zip(maps, fields, names, LINES * len(fields), strict=False):
        height, width = field.shape
        relative = field / field.max()
        coloured = show_map(axes, relative, (height, width), HEAT, LogNorm(1e-3, 1))
        sides = []
        for square in squares(field, SHARES):
            corner = (width - square.side) / 2, (height - square.side) / 2
            axes.add_patch(Rectangle(corner, square.side, square.side, fill=False, ec='white'))
            sides.append(f'{square.side}')
        name_and_sides = f'{name}\nsides {", ".join(sides)} px'
        axes.set(title=name_and_sides, xlabel='column (px)', xlim=(0, width), ylim=(height, 0))
        _, areas, held = growing_squares(field)
        curve.plot(areas, held, label=name.replace('\n', ', '), color=colour)
    maps[0].set_ylabel('row (px)')
    bar = figure.colorbar(coloured, ax=maps, extend='min', aspect=30, shrink=0.8)
    bar.set_label('gradient (share of the largest)')
    curve.set(
        xlabel='area of the square (share of the image)', ylabel='share of the field inside',
        xlim=(0, 1), ylim=(0, 1),
    )  # fmt: skip
    curve.set_title('from the centre outwards')
    curve.grid()
    figure.legend(loc='outside lower center', ncols=len(fields))
    return figure
