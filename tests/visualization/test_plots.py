"""The pictures: their panels, colours and files."""

import threading
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from mmvheat.errors import UserError
from mmvheat.visualization import plots
from mmvheat.visualization.plots import style

IMAGE = np.full((32, 64, 3), 90, np.uint8)


def _maps(count: int, height: int = 4, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).random((count, height, width))


def _heat(image: np.ndarray | None) -> Figure:
    maps = _maps(3) / 40
    return plots.plot_point_heat(
        [maps, maps[:, :2, :4]], (0, 1, 2), 'ab', (32, 64), (3, 60), 'heat', image
    )


PICTURES: dict[str, tuple[Callable[[], Figure], int]] = {
    'heat': (lambda: _heat(None), 6),
    'heat of an image': (lambda: _heat(IMAGE), 8),
    'diffusivity': (lambda: plots.plot_diffusivity([_maps(3)] * 2, 'ab', 'k'), 6),
    'one group': (lambda: plots.plot_diffusivity([_maps(1, 1, 1)], 'a', 'k'), 1),
    'nothing conducts': (lambda: plots.plot_diffusivity([_maps(2) * np.inf], 'a', 'k'), 2),
    'decay': (lambda: plots.plot_decay([_maps(2)] * 2, 'ab', 'decay'), 6),
    'spectrum': (lambda: plots.plot_spectrum(_maps(2), _maps(2) / 2, 'ab', 'spectrum'), 8),
    'no spectrum': (lambda: plots.plot_spectrum(_maps(1) * 0, _maps(1) * 0, 'a', 'spectrum'), 4),
    'erf': (lambda: plots.plot_receptive_fields(_maps(2) / 32, ['a', 'b\nc'], 'erf'), 3),
    'features': (
        lambda: plots.plot_features([np.ones((4, 8, 3)), _maps(2)], IMAGE, (32, 64), 'maps'),
        12,
    ),
    'cam': (lambda: plots.plot_activations(_maps(2, 32, 64), 'ab', IMAGE, 'cam'), 3),
}


@pytest.mark.parametrize('name', PICTURES)
def test_pictures(name: str, tmp_path) -> None:
    """Every panel shows something; the same picture gives the same files."""
    draw, panels = PICTURES[name]
    figure = draw()
    assert figure.get_suptitle()
    shown = [axes for axes in figure.axes if axes.get_label() != '<colorbar>']
    assert len(shown) == panels
    assert all(axes.images or axes.lines for axes in shown if axes.axison)
    for suffix in ('.png', '.svg') if name in ('decay', 'erf') else ('.png',):
        contents = set()
        for path in (tmp_path / f'a{suffix}', tmp_path / f'b{suffix}'):
            plots.save_figure(draw(), path)
            contents.add(path.read_bytes())
        assert len(contents) == 1
    assert plots.figure_png(figure) == (tmp_path / 'a.png').read_bytes()


def test_drawing_leaves_nothing_behind() -> None:
    """Nor do many threads at once, which take turns."""
    before = dict(matplotlib.rcParams)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(plots.figure_png(_heat(None))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and len(set(results)) == 1
    assert dict(matplotlib.rcParams) == before
    assert 'matplotlib.pyplot' not in style.__dict__


def test_a_file_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / 'a.png').mkdir()
    with pytest.raises(UserError, match='a.png cannot be written: '):
        plots.save_figure(_heat(None), tmp_path / 'a.png')
    assert [path.name for path in tmp_path.iterdir()] == ['a.png']


def _lightness(colours: np.ndarray) -> np.ndarray:
    """CIE lightness of colours of shape (..., 3) in sRGB, 0 to 100."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


@pytest.mark.parametrize('name', ['HEAT', 'DIFFUSIVITY', 'FADED', 'STRENGTH'])
def test_colour_maps_can_be_read_without_telling_colours_apart(name: str) -> None:
    """Lightness alone tells every value: it grows all the way."""
    lightness = _lightness(getattr(style, name)(np.linspace(0, 1, 64))[:, :3])
    assert (np.diff(lightness) > 0).all() and np.ptp(lightness) > 60


def test_signed_values_can_be_told_apart_by_people_without_red_or_green() -> None:
    """Machado et al. 2009, full deuteranopia: both ends stay far apart, and from the middle."""
    matrix = np.array([
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ])  # fmt: skip
    seen = style.SIGNED([0.1, 0.5, 0.9])[:, :3] @ matrix.T
    low, middle, high = seen
    assert (
        min(np.abs(low - high).max(), np.abs(low - middle).max(), np.abs(high - middle).max()) > 0.3
    )
