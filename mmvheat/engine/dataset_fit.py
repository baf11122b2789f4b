"""Check a dataset before hours of work: it has samples, their files exist, its classes fit."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.data import Dataset, IterableDataset

from mmvheat.errors import UserError

from .distributed import unwrapped

__all__ = ['DATA_ERRORS', 'check_classes', 'check_samples', 'empty_data_errors']

# What the libraries raise, besides ValueError and its like, for data that is not there.
DATA_ERRORS = (AssertionError, RuntimeError, OSError)
_FILES = ('img_path', 'seg_map_path')
# Enough to find a wrong folder or suffix, few enough for a slow network disk.
_MOST_SAMPLES = 200
_HEADS = ('head', 'decode_head', 'bbox_head', 'roi_head.bbox_head')


def check_samples(dataset: Dataset) -> None:
    """Check that a dataset of the libraries has samples and, for up to 200 of them, their files.

    Args:
        dataset: What the Runner built, maybe several in a wrapper.

    Raises:
        UserError: If it is empty, or an image or label map does not exist.
    """
    if isinstance(dataset, IterableDataset):
        return
    for part in _parts(dataset):
        if len(part) == 0:
            raise UserError(_empty(type(part).__name__, _places(part)))
        classes = (getattr(part, 'metainfo', None) or {}).get('classes') or ()
        found = getattr(part, 'cat_ids', classes)
        # Of names that the file lacks mmdet says nothing, and numbers the others anew.
        if len(found) < len(classes):
            raise UserError(
                f'{type(part).__name__} finds {len(found)} of the {len(classes)} classes '
                f'({", ".join(map(str, classes[:3]))}{", ..." * (len(classes) > 3)}) in '
                f'{_places(part)}: metainfo.classes must be names of its categories'
            )
        if not hasattr(part, 'get_data_info'):
            continue
        for index in range(0, len(part), -(-len(part) // _MOST_SAMPLES)):
            info = part.get_data_info(index)
            for name in _FILES:
                path = info.get(name)
                if isinstance(path, str) and '://' not in path and not os.path.isfile(path):
                    raise UserError(
                        f'{type(part).__name__} looks for {name} {path}, which does not exist: '
                        f'check data_root, data_prefix and the suffixes ({_places(part)})'
                    )


@contextmanager
def empty_data_errors(config: Any) -> Iterator[None]:
    """Say which data is empty where mmengine fails to pack an empty list.

    Args:
        config: Config of the data set that is being built, maybe a wrapper's.

    Raises:
        UserError: Instead of NumPy's ``ValueError``.
    """
    try:
        yield
    except ValueError as error:
        if 'need at least one array to concatenate' not in str(error):
            raise
        parts = [part for part in _parts(config) if isinstance(part, Mapping)]
        kinds = ' or '.join(str(part.get('type')) for part in parts) or 'the data set'
        places = ' or '.join(map(_places, parts)) or 'its data'
        raise UserError(_empty(kinds, places)) from error


def check_classes(model: nn.Module, dataset: Dataset, where: str) -> None:
    """Compare the classes of a dataset with those of the model's heads.

    Args:
        model: What the Runner built.
        dataset: What its loader reads.
        where: The loader's name, for the message.

    Raises:
        UserError: If their numbers differ.
    """
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if not isinstance(classes, Sequence) or isinstance(classes, str):
        return
    for name, head in _heads(unwrapped(model)):
        count = getattr(head, 'num_classes', None)
        if isinstance(count, int) and count != len(classes):
            raise UserError(
                f'{where} has {len(classes)} classes ({", ".join(map(str, classes[:3]))}'
                f'{", ..." * (len(classes) > 3)}), model.{name} has num_classes={count}: '
                'set one to fit the other (metainfo.classes or num_classes)'
            )


def _heads(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name in _HEADS:
        head: Any = model
        for part in name.split('.'):
            head = getattr(head, part, None)
        if isinstance(head, nn.ModuleList):
            yield from ((f'{name}.{i}', child) for i, child in enumerate(head))
        elif head is not None:
            yield name, head


def _empty(kind: str, places: str) -> str:
    return (
        f'{kind} found no samples in {places}: expected at least one image with labels; check '
        'data_root, data_prefix, ann_file, the suffixes, the names of the classes and filter_cfg'
    )


def _get(dataset: Any, name: str) -> Any:
    """Read a data set's attribute, or its config's."""
    return dataset.get(name) if isinstance(dataset, Mapping) else getattr(dataset, name, None)


def _parts(dataset: Any) -> Iterator[Any]:
    """Go through the wrappers (ConcatDataset, RepeatDataset, ...) to the datasets."""
    inner = _get(dataset, 'datasets')
    if inner is None and _get(dataset, 'dataset') is not None:
        inner = [_get(dataset, 'dataset')]
    if inner is None:
        yield dataset
    else:
        for part in inner:
            yield from _parts(part)


def _places(dataset: Any) -> str:
    """Say where a dataset looked."""
    names = ('data_root', 'ann_file', 'data_prefix')
    found = {name: _get(dataset, name) for name in names}
    return ', '.join(f'{name}={value}' for name, value in found.items() if value) or 'its data'
