"""Images of a config's training data, which int8 takes the ranges of its activations from."""

from pathlib import Path
from typing import TYPE_CHECKING

from mmvheat.errors import UserError, config_errors

from .config import require

if TYPE_CHECKING:
    from mmengine.config import Config

__all__ = ['spread', 'training_images']


def training_images(cfg: 'Config', config: str, count: int) -> list[Path]:
    """List images of the training data, evenly spread over them.

    Args:
        cfg: The config, of :func:`.config.load_config`.
        config: Its path, for messages.
        count: At most how many.

    Raises:
        UserError: If the config has no training data, or they are not there.
    """
    from mmengine.registry import DATASETS, DefaultScope

    require(cfg, config, ('train_dataloader',), 'calibration: give --calibration DIR')
    data = cfg.train_dataloader.dataset
    # Inside of what repeats or joins data sets; of several the first does.
    while 'dataset' in data or 'datasets' in data:
        data = data['dataset'] if 'dataset' in data else data['datasets'][0]
    where = f'the training data of {config}, which --int8 without --calibration DIR takes'
    with (
        DefaultScope.overwrite_default_scope(cfg.default_scope),
        config_errors(where, (AssertionError, RuntimeError, OSError)),
    ):
        dataset = DATASETS.build({**data, 'pipeline': []})
        indices = spread(range(len(dataset)), count)
        paths = [Path(dataset.get_data_info(index)['img_path']) for index in indices]
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None or not paths:
        found = 'there are none' if missing is None else f'{missing} does not exist'
        raise UserError(f'{where}: {found}')
    return paths


def spread(items: list | range, count: int) -> list:
    """Choose at most so many items, evenly spread."""
    step = max(1, len(items) / count)
    return [items[int(i * step)] for i in range(min(len(items), count))]
