"""Build a config's model with the weights of a checkpoint, and give it images as its test does."""

import io
import logging
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmvheat.errors import UserError, config_errors, first_names

from .config import load_config, require

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config
    from torch import Tensor, nn

__all__ = [
    'Image',
    'LoadedModel',
    'build_model',
    'check_device',
    'hush',
    'load_model',
    'read_image',
]


@dataclass(frozen=True)
class Image:
    """An image as a model gets it.

    Attributes:
        inputs: Shape (1, 3, H, W), normalised and padded.
        samples: The library's data sample of it, in a list.
        picture: What is to be seen of it: shape (h, w, 3), RGB, uint8; resized, not padded.
    """

    inputs: 'Tensor'
    samples: list[Any]
    picture: 'np.ndarray'


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to run.

    Attributes:
        cfg: Its config.
        model: The classifier, detector or segmentor, in eval mode.
        classes: Names of its classes; empty if they are not known.
        palette: A colour (r, g, b) for each class; None if they are not known.
    """

    cfg: 'Config'
    model: 'nn.Module'
    classes: tuple[str, ...]
    palette: tuple[tuple[int, ...], ...] | None = None

    def prepare(self, image: 'np.ndarray') -> Image:
        """Take an image through the config's test pipeline and the model's preprocessor.

        Args:
            image: Shape (H, W, 3), BGR, uint8, see :func:`read_image`.

        Raises:
            UserError: If the config's pipeline cannot take it.
        """
        from mmengine.dataset import Compose, pseudo_collate
        from mmengine.registry import DefaultScope

        transforms = self.cfg.test_dataloader.dataset.pipeline
        # There is no file to load, and no truth.
        kept = [step for step in transforms if not _loads(step)]
        results = {'img': image, 'img_shape': image.shape[:2], 'ori_shape': image.shape[:2]}
        with (
            DefaultScope.overwrite_default_scope(self.cfg.default_scope),
            config_errors('the test pipeline of the config'),
        ):
            packed = Compose(kept)({**results, 'img_path': '', 'img_id': 0})
            picture = packed['inputs'].permute(1, 2, 0).numpy()[..., ::-1]
            batch = self.model.data_preprocessor(pseudo_collate([packed]), False)
        return Image(batch['inputs'], batch['data_samples'], picture)

    def class_index(self, name: str) -> int:
        """Find a class by its name or number.

        Raises:
            UserError: If there is none.
        """
        if name in self.classes:
            return self.classes.index(name)
        if name.isdecimal() and (not self.classes or int(name) < len(self.classes)):
            return int(name)
        known = first_names(self.classes, 10) or 'no names: give its number'
        raise UserError(f'there is no class {name}: the model knows {known}')

    def class_name(self, label: int) -> str:
        """Name a class; by its number if the names are not known."""
        return self.classes[label] if label < len(self.classes) else f'class {label}'


def load_model(
    config: str,
    checkpoint: str,
    options: dict[str, Any] | None = None,
    device: str = 'cpu',
) -> LoadedModel:
    """Build a config's model and load a checkpoint of it, a published one too.

    Args:
        config: Path of the config, of one of the three libraries.
        checkpoint: Path or URL of the checkpoint.
        options: What ``--cfg-options`` gave.
        device: Where it is to run, see :func:`check_device`.

    Raises:
        UserError: If the config or the checkpoint cannot be used, or they do not fit each other.
    """
    from mmengine.runner import load_checkpoint

    from mmvheat.checkpoint.formats import class_names

    from .preflight import open_checkpoint

    opened = open_checkpoint(checkpoint)
    opened.check_weights()
    cfg = load_config(config, options)
    require(cfg, config, ('model', 'test_dataloader'), 'testing')
    model = build_model(cfg, config)
    opened.check_fit(model, exact=True)
    with redirect_stdout(io.StringIO()):
        load_checkpoint(model, checkpoint, map_location='cpu')
    classes = class_names({'meta': opened.meta}) or _of_data(cfg, 'classes') or ()
    of_data = {'dataset_meta': {'palette': _of_data(cfg, 'palette')}}
    palette = _palette(opened.meta) or _palette(of_data)
    return LoadedModel(cfg, model.to(device).eval(), tuple(classes), palette)


def build_model(cfg: 'Config', config: str) -> 'nn.Module':
    """Build the model of a config, in eval mode, with new random weights.

    Args:
        cfg: The config, of :func:`.load_config`.
        config: Its path, for messages.

    Raises:
        UserError: If it cannot be built.
    """
    from mmengine.registry import MODELS, DefaultScope

    hush()
    # What the libraries print belongs to their own command lines.
    with (
        DefaultScope.overwrite_default_scope(cfg.default_scope),
        config_errors(config),
        redirect_stdout(io.StringIO()),
    ):
        return MODELS.build(cfg.model).eval()


def read_image(path: str) -> 'np.ndarray':
    """Read an image as (H, W, 3) BGR, as the libraries do.

    Raises:
        UserError: If it is none.
    """
    import cv2

    if not Path(path).is_file():
        raise UserError(f'{path} does not exist or is no file: give the path of an image')
    image = cv2.imread(path)
    if image is None:
        raise UserError(f'{path} cannot be read as an image: give a jpg, png, ...')
    return image


def check_device(name: str | None) -> str:
    """Check that tensors can live on a device; None is the GPU, or the CPU where there is none.

    Raises:
        UserError: If they cannot.
    """
    import torch
    from mmengine.device import get_device

    name = name or get_device()
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        text = str(error).splitlines()[0]
        raise UserError(f'--device {name} cannot be used: {text}') from error
    return name


def hush() -> None:
    """Silence what the libraries always say or warn of and what changes nothing here."""
    from mmengine.logging import MMLogger

    warnings.filterwarnings('ignore', category=UserWarning, module=r'mmseg\.models')
    logger = MMLogger.get_current_instance()
    logger.setLevel('WARNING')  # That all keys match is checked beforehand.
    logger.addFilter(_says_something)


def _says_something(record: logging.LogRecord) -> bool:
    # mmengine looks for collate functions in mmdet and mmseg, which have none of their own.
    return 'Failed to search registry' not in record.getMessage()


def _loads(step: dict[str, Any]) -> bool:
    """Whether a step of a pipeline reads a file."""
    kind = step['type']
    name = kind if isinstance(kind, str) else kind.__name__
    return name.rpartition('.')[2].startswith('Load')


def _of_data(cfg: 'Config', name: str) -> Any:
    """Read what a config or its kind of data set says of the classes; None if it is not there."""
    from mmengine.registry import DATASETS, DefaultScope

    data = cfg.test_dataloader.dataset
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        kind = data.type if isinstance(data.type, type) else DATASETS.get(data.type)
    known = (data.get('metainfo') or {}).get(name) or data.get(name)
    return known or (getattr(kind, 'METAINFO', None) or {}).get(name)


def _palette(meta: Mapping[str, Any]) -> tuple[tuple[int, ...], ...] | None:
    """Read the colours of the classes off a checkpoint's metadata; None if there are none."""
    dataset = meta.get('dataset_meta')
    found = dataset.get('palette') if isinstance(dataset, Mapping) else None
    if not isinstance(found, list | tuple) or not all(
        isinstance(colour, list | tuple) and len(colour) == 3 for colour in found
    ):
        return None
    return tuple(tuple(map(int, colour)) for colour in found) or None
