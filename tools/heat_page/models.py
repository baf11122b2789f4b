"""The models that a page shows, and images to show them with."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mmvheat.cli.model import LoadedModel
from mmvheat.cli.prediction import Predictor, load_predictor
from mmvheat.models import VHeat
from mmvheat.visualization import find_backbone

__all__ = ['ShownModel', 'example_images', 'load_models']

_KINDS = {'mmpretrain': 'classifier', 'mmdet': 'detector', 'mmseg': 'segmentor'}
_EXAMPLES = 10
_SUFFIXES = ('.png', '.jpg', '.jpeg')


@dataclass(frozen=True, eq=False)
class ShownModel:
    """A model of the page.

    Attributes:
        name: Its config's name.
        predictor: It finds things in images.
        examples: Images of its validation data.
    """

    name: str
    predictor: Predictor
    examples: tuple[Path, ...]

    @property
    def title(self) -> str:
        """What it is, and its name."""
        return f'{_KINDS[self.predictor.cfg.default_scope]}: {self.name}'

    @property
    def loaded(self) -> LoadedModel:
        """The same model, which takes images as its test does."""
        return LoadedModel(self.predictor.cfg, self.predictor.model, self.predictor.classes)

    @property
    def backbone(self) -> VHeat:
        """Its vHeat."""
        return find_backbone(self.predictor.model)


def load_models(pairs: Sequence[tuple[str, str]], device: str, home: Path) -> list[ShownModel]:
    """Load models; two configs of one name get numbers.

    Args:
        pairs: A config and a checkpoint each.
        device: Where they are to run.
        home: Where relative paths in their configs start.

    Raises:
        UserError: If one cannot be used, or is no vHeat.
    """
    models: list[ShownModel] = []
    for config, checkpoint in pairs:
        name = stem = Path(config).stem
        number = 1
        while name in (model.name for model in models):
            number += 1
            name = f'{stem} ({number})'
        predictor = load_predictor(config, checkpoint, device)
        find_backbone(predictor.model)
        examples = example_images(predictor.cfg.test_dataloader.dataset, home)
        models.append(ShownModel(name, predictor, examples))
    return models


def example_images(dataset: Any, home: Path) -> tuple[Path, ...]:
    """Find some images of a data set: of a folder of classes, one of each class.

    Args:
        dataset: Its config.
        home: Where relative paths start.
    """
    prefix = dataset.get('data_prefix') or ''
    if not isinstance(prefix, str):
        prefix = prefix.get('img') or prefix.get('img_path') or ''
    root = dataset.get('data_root') or ''
    folder = home / root / prefix
    if not (root or prefix) or not folder.is_dir():
        return ()
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    found = (islice(_images(one), 1) for one in classes) if classes else [_images(folder)]
    return tuple(islice((path for images in found for path in images), _EXAMPLES))


def _images(folder: Path):
    return (path for path in sorted(folder.iterdir()) if path.suffix.lower() in _SUFFIXES)
