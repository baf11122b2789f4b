"""Check that the data of a config are what it says, and count what they hold of each class."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from mmvheat.cli.arguments import OneLineParser
from mmvheat.cli.command import run_command
from mmvheat.errors import UserError, config_errors

_COUNTED = {'mmpretrain': 'images', 'mmdet': 'objects', 'mmseg': 'images that show it'}
# What a library's dataset must have for its layout to be known here.
_NEEDED = {'mmpretrain': 'img_prefix', 'mmdet': 'COCOAPI', 'mmseg': 'reduce_zero_label'}
_IGNORED = 255


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument('config', help='config file')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Check the data for training, validation and test, and print a table."""
    args = parse_args(argv)
    from mmengine.logging import MMLogger

    from mmvheat.cli.config import load_config

    # What the libraries warn of is checked here.
    MMLogger.get_current_instance().setLevel('ERROR')
    cfg = load_config(args.config)
    check = {'mmpretrain': _check_folders, 'mmdet': _check_coco, 'mmseg': _check_masks}
    columns, classes, seen = {}, [], []
    for split in ('train', 'val', 'test'):
        settings = cfg.get(f'{split}_dataloader')
        if settings is None or settings.dataset in seen:
            continue
        seen.append(settings.dataset)
        dataset = _build(settings.dataset, cfg.default_scope, f'{args.config}: {split}_dataloader')
        if not hasattr(dataset, _NEEDED[cfg.default_scope]):
            raise UserError(
                f'{args.config}: {split}_dataloader reads a {type(dataset).__name__}: expected an '
                'ImageFolder, a COCO file or folders of images and masks'
            )
        classes = dataset.metainfo.get('classes')
        if not classes:
            raise UserError(f'{args.config}: {split}_dataloader.dataset has no classes')
        columns[split] = check[cfg.default_scope](dataset, list(classes), split)
    if not columns:
        raise UserError(f'{args.config} has no train_, val_ or test_dataloader')
    _report(columns, list(classes), _COUNTED[cfg.default_scope])


def _build(settings: Any, scope: str, where: str) -> Any:
    """Build a dataset without its pipeline and, as yet, without its list of samples."""
    from mmengine.registry import DATASETS, DefaultScope

    while 'dataset' in settings:
        settings = settings.dataset
    with config_errors(where), DefaultScope.overwrite_default_scope(scope):
        return DATASETS.build(dict(settings, pipeline=[], lazy_init=True))


def _check_folders(dataset: Any, classes: list[str], split: str) -> Counter:
    """Check a folder for each class, and count images."""
    root = _existing(dataset.img_prefix, split)
    found = sorted(path.name for path in root.iterdir() if path.is_dir())
    # Names may be others than the folders', but not the folders' own in another order.
    mixed = found != classes and set(found) & set(classes)
    if not dataset.ann_file and (len(found) != len(classes) or mixed):
        raise UserError(_differ(split, f'the folders in {root}', found, classes))
    counts = Counter(sample['gt_label'] for sample in _samples(dataset, split))
    for label, name in enumerate(classes):
        if not counts[label]:
            raise UserError(f'{split}: no image of class {name!r} in {root}')
    return counts


def _check_coco(dataset: Any, classes: list[str], split: str) -> Counter:
    """Check categories and image files of a COCO file, and count objects."""
    path = _existing(dataset.ann_file, split)
    try:
        content = json.loads(path.read_text())
        names = {category['id']: category['name'] for category in content['categories']}
        images = {image['id']: image['file_name'] for image in content['images']}
        labels = [(entry['image_id'], entry['category_id']) for entry in content['annotations']]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{split}: {path} is no COCO file of instances ({type(error).__name__}: {error})'
        ) from error
    found = list(names.values())
    # mmdet takes them in the order of the file, whatever their order in the config.
    if [name for name in found if name in classes] != classes:
        raise UserError(_differ(split, f'the categories in {path}', found, classes))
    folder = _existing(dataset.data_prefix['img'], split)
    for name in images.values():
        if not (folder / name).is_file():
            raise UserError(f'{split}: {path} names {name}, which is not in {folder}')
    for image, category in labels:
        if image not in images or category not in names:
            raise UserError(
                f'{split}: {path} has an object of image_id {image} and category_id {category}, '
                'one of which is not in its lists'
            )
    counts = Counter(names[category] for _, category in labels)
    return Counter({label: counts[name] for label, name in enumerate(classes)})


def _check_masks(dataset: Any, classes: list[str], split: str) -> Counter:
    """Check that each image has a mask of known values, and count the images of each class."""
    import numpy as np
    from PIL import Image

    _existing(dataset.data_prefix['img_path'], split)
    _existing(dataset.data_prefix['seg_map_path'], split)
    first = int(dataset.reduce_zero_label)
    counts: Counter = Counter()
    for sample in _samples(dataset, split):
        image, mask = Path(sample['img_path']), Path(sample['seg_map_path'])
        if not mask.is_file():
            raise UserError(f'{split}: {image} has no mask {mask}')
        with Image.open(image) as picture, Image.open(mask) as labels:
            if picture.size != labels.size:
                raise UserError(
                    f'{split}: {mask} has {labels.size[0]} x {labels.size[1]} pixels, its image '
                    f'{picture.size[0]} x {picture.size[1]}'
                )
            values = np.asarray(labels)
        if values.ndim != 2:
            raise UserError(
                f'{split}: {mask} is a colour image: expected one channel of class numbers'
            )
        found = set(np.unique(values).tolist()) - {_IGNORED} - set(range(first))
        unknown = sorted(value for value in found if value - first >= len(classes))
        if unknown:
            raise UserError(
                f'{split}: {mask} has the values {unknown}: the {len(classes)} classes are '
                f'{first} to {first + len(classes) - 1} (reduce_zero_label={bool(first)}), '
                f'{_IGNORED} is ignored'
            )
        counts.update(value - first for value in found)
    return counts


def _existing(path: str, split: str) -> Path:
    if not Path(path).exists():
        raise UserError(f'{split}: {path} does not exist')
    return Path(path)


def _samples(dataset: Any, split: str) -> list[dict]:
    """Let a dataset list its samples."""
    try:
        with config_errors(split):
            samples = dataset.load_data_list()
    except RuntimeError as error:  # mmpretrain found nothing.
        raise UserError(f'{split}: {error}') from error
    if not samples:
        where, suffix = dataset.data_prefix['img_path'], dataset.img_suffix
        raise UserError(f'{split}: no image in {where} has a name that ends in {suffix!r}')
    return samples


def _differ(split: str, what: str, found: list[str], classes: list[str]) -> str:
    return f'{split}: {what} are {found}, the config has classes = {classes}'


def _report(columns: dict[str, Counter], classes: list[str], counted: str) -> None:
    """Print the counts, a row a class."""
    from rich.console import Console
    from rich.table import Table

    table = Table('class', *columns, box=None, pad_edge=False)
    for label, name in enumerate(classes):
        table.add_row(name, *(str(counts[label]) for counts in columns.values()))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(f'the data fit the config (counted: {counted})')


if __name__ == '__main__':
    sys.exit(run_command(main))
