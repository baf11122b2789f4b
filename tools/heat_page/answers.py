"""What the page answers: plain functions of a model, an image, a pixel and the sliders."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import numpy as np
from matplotlib.colors import LogNorm
from PIL import Image as Pictures
from PIL import ImageDraw
from torch import Tensor

from mmvheat.cli.model import Image
from mmvheat.cli.prediction import enlarge, enlargement
from mmvheat.errors import UserError
from mmvheat.visualization import (
    block_diffusivity,
    map_cell,
    operator_input,
    point_heat,
)
from mmvheat.visualization.plots.heat import heat_scale, without_cold
from mmvheat.visualization.plots.style import HEAT

from .models import ShownModel
from .uploads import read_photo

__all__ = ['Answers', 'Found', 'Heat']

# What runs models: the libraries keep scopes and pictures for the whole process.
_ONE_AT_A_TIME = Lock()
_IMAGES, _BLOCKS = 16, 8
_MARK = 7


@dataclass(frozen=True)
class Found:
    """What a model finds in an image.

    Attributes:
        picture: Shape (H, W, 3), RGB, uint8.
        columns: Names of the columns.
        rows: What was found, the most important first.
    """

    picture: np.ndarray
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class Heat:
    """How the heat of a pixel has spread.

    Attributes:
        temperature: Shape (H', W') of the map, 1 in one cell at the start.
        cell: Row and column of that cell.
        coldest: What is drawn in the darkest colour.
        image: The image with the pixel marked, shape (H, W, 3), RGB, uint8.
        picture: The map over the same area.
        words: What the numbers say.
    """

    temperature: np.ndarray
    cell: tuple[int, int]
    coldest: float
    image: np.ndarray
    picture: np.ndarray
    words: str


class Answers:
    """The answers of a page, to any number of threads.

    Args:
        models: The models that it shows.
    """

    def __init__(self, models: Sequence[ShownModel]) -> None:
        self._models = {model.name: model for model in models}
        self._image = lru_cache(_IMAGES)(self._make_image)
        self._diffusivity = lru_cache(_BLOCKS)(self._make_diffusivity)
        self._source = lru_cache(_BLOCKS)(self._make_source)

    @property
    def models(self) -> list[ShownModel]:
        """The models."""
        return list(self._models.values())

    def model(self, name: str) -> ShownModel:
        """Find a model.

        Raises:
            UserError: If there is none of that name.
        """
        if name not in self._models:
            raise UserError(f'there is no model {name}: there are {", ".join(self._models)}')
        return self._models[name]

    def depths(self, name: str) -> list[int]:
        """Count the blocks of each stage of a model."""
        return [stage.depth for stage in self.model(name).backbone.layers]

    def size(self, name: str, path: str | None) -> tuple[int, int]:
        """Measure an image, height and width, as a model sees it."""
        return self._image(name, _given(path))[1].picture.shape[:2]

    def zoom(self, name: str, path: str | None) -> int:
        """Tell how many times the pictures of :class:`Heat` are enlarged."""
        return enlargement(self.size(name, path))

    def find(self, name: str, path: str | None) -> Found:
        """Let a model find what is in an image."""
        predictor = self.model(name).predictor
        photo, _ = self._image(name, _given(path))
        with _ONE_AT_A_TIME:
            sample = predictor.predict(photo)
            rows = predictor.describe(sample)
            return Found(predictor.draw(photo, sample), predictor.columns, rows)

    def spread(
        self,
        name: str,
        path: str | None,
        pixel: tuple[int, int],
        stage: int = 0,
        block: int = 0,
        time: float = 1.0,
        factor: float = 1.0,
    ) -> Heat:
        """Let the heat of a pixel spread.

        The mean over channels is weighted by what the image makes of the pixel's cell.

        Args:
            name: The model.
            path: The image.
            pixel: Row and column in the image as the model sees it, from 0.
            stage: Stage of the backbone, from 0.
            block: Its block, from 0.
            time: It multiplies k; 1 is what the block does.
            factor: So does it.
        """
        image = self._image(name, _given(path))[1]
        seen, size = image.picture.shape[:2], tuple(image.inputs.shape[2:])
        map_cell(pixel, seen, seen)
        k = self._diffusivity(name, size, stage, block)
        cell = map_cell(pixel, size, k.shape[:2])
        weights = self._source(name, path, stage, block)[cell].abs()
        temperature = point_heat(k, cell, [time * factor], weights=weights)[0]
        norm = heat_scale(temperature)
        zoom = enlargement(seen)
        return Heat(
            temperature,
            cell,
            norm.vmin,
            _marked(enlarge(image.picture, zoom), pixel, zoom),
            _marked(enlarge(_coloured(temperature, norm, seen, size), zoom), pixel, zoom),
            _in_words(temperature, cell, size),
        )

    def _make_image(self, name: str, path: str) -> tuple[np.ndarray, Image]:
        loaded = self.model(name).loaded
        photo = read_photo(path)
        with _ONE_AT_A_TIME:
            return photo, loaded.prepare(photo)

    def _make_diffusivity(self, name: str, size: tuple[int, int], stage: int, block: int) -> Tensor:
        return block_diffusivity(self.model(name).backbone, stage, block, size)

    def _make_source(self, name: str, path: str, stage: int, block: int) -> Tensor:
        backbone, image = self.model(name).backbone, self._image(name, path)[1]
        # A hook records it, and would record what others run meanwhile.
        with _ONE_AT_A_TIME:
            return operator_input(backbone, image.inputs, stage, block)[0]


def _given(path: str | None) -> str:
    if path is None:
        raise UserError('there is no image: choose an example or upload one')
    return path


def _coloured(
    temperature: np.ndarray, norm: LogNorm, seen: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Colour the cell of each pixel; grey is below 0."""
    rows, columns = (
        np.arange(pixels) * cells // side
        for pixels, cells, side in zip(seen, temperature.shape, size, strict=True)
    )
    return HEAT(norm(without_cold(temperature, norm)), bytes=True)[np.ix_(rows, columns)][..., :3]


def _marked(picture: np.ndarray, pixel: tuple[int, int], zoom: int) -> np.ndarray:
    """Draw a ring around a pixel."""
    drawn = Pictures.fromarray(np.ascontiguousarray(picture))
    y, x = (place * zoom + zoom // 2 for place in pixel)
    draw = ImageDraw.Draw(drawn)
    for radius, colour, width in ((_MARK + 1, 'black', 4), (_MARK, 'white', 2)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=width)
    return np.asarray(drawn)


def _in_words(temperature: np.ndarray, cell: tuple[int, int], size: tuple[int, int]) -> str:
    height, width = temperature.shape
    down, right = (side / cells for side, cells in zip(size, temperature.shape, strict=True))
    held = np.cumsum(np.sort(temperature, axis=None)[::-1])
    half = int(np.searchsorted(held, 0.5)) + 1
    return (
        f'A map of {height} × {width} cells of {down:g} × {right:g} pixels. The hot cell, in row '
        f'{cell[0]} and column {cell[1]}, keeps {temperature[cell]:.1%} of the heat. The warmest '
        f'{"cell holds" if half == 1 else f"{half} cells hold"} half of it.'
    )
