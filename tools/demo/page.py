"""The demo's report as one HTML file: its table, the curves of its trainings, and its pictures."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mmvheat.visualization.plots import save_figure, styled
from mmvheat.visualization.plots.style import make_panels

__all__ = ['Picture', 'draw_curves', 'write_page']


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes:
        path: The PNG file.
        title: Its heading.
        caption: What there is to see.
    """

    path: Path
    title: str
    caption: str

    @property
    def content(self) -> str:
        """The file, in base64."""
        return base64.b64encode(self.path.read_bytes()).decode()


@styled
def draw_curves(runs: dict[str, Path], out: Path) -> Path:
    """Draw the loss of each training over its iterations.

    Args:
        runs: Work directory of each training, by its title.
        out: PNG file to write.
    """
    figure, panels = make_panels(1, len(runs), 'Losses', size=3.2, aspect=0.7)
    for axes, (title, folder) in zip(panels[0], runs.items(), strict=True):
        (file,) = folder.glob('*/vis_data/scalars.json')
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        points = [(line['step'], line['loss']) for line in lines if 'loss' in line]
        axes.plot(*zip(*points, strict=True), 'o-')
        axes.set(title=title, xlabel='iteration', ylabel='loss', ylim=(0, None))
        axes.grid(True)
    save_figure(figure, out)
    return out


def write_page(
    out: Path,
    title: str,
    about: str,
    table: tuple[Sequence[str], Sequence[Sequence[str]]],
    below: Sequence[str],
    pictures: Sequence[Picture],
) -> Path:
    """Write the page; it needs no other file and no network.

    Args:
        out: HTML file to write.
        title: Its title.
        about: The sentence under it.
        table: Header and rows of the table.
        below: Lines on figures that are below their floors.
        pictures: What follows.
    """
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    header, rows = table
    text = templates.get_template('page.html').render(
        title=title, about=about, header=header, rows=rows, below=below, pictures=pictures
    )
    out.write_text(text)
    return out
