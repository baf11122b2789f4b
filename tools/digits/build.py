"""Every image and annotation of the embedded data, written below one folder."""

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from .drawing import Digits, Instance, compose_portrait, compose_scene, load_digits
from .spec import DIGIT_NAMES, DigitsSpec

__all__ = ['build_digits', 'coco_annotation', 'coco_file']

_SPLITS = ('train', 'val')
_PORTRAIT, _SCENE = range(2)
# Images from which on starting processes takes less time than they save.
_MANY = 4000
# Half the time of opencv's default, the same size: grain leaves nothing for a dictionary to find.
_PNG_OPTIONS = (
    cv2.IMWRITE_PNG_COMPRESSION,
    1,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_RLE,
)
# From opencv 4.12 on.
if hasattr(cv2, 'IMWRITE_PNG_FILTER'):
    _PNG_OPTIONS += (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB)


def build_digits(
    folder: Path,
    spec: DigitsSpec,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Write the data set.

    Every digit and every scene has a seed of its own, so the first ones stay what they are
    when more are asked for.

    Args:
        folder: An empty folder.
        spec: What to write.
        progress: Called with images done and images in all, after each.

    Returns:
        Number of scene instances of ``'train'`` and ``'val'``.

    Raises:
        OSError: If something cannot be written.
    """
    digits = {
        'train': load_digits('train', spec.num_train_digits),
        'val': load_digits('val', spec.num_val_digits),
    }
    renders = {'train': spec.train_renders, 'val': spec.val_renders}
    scenes = {'train': spec.num_train_scenes, 'val': spec.num_val_scenes}
    total = sum(len(digits[split].labels) * renders[split] + scenes[split] for split in _SPLITS)
    done = 0

    def advance(images: int) -> None:
        nonlocal done
        done += images
        if progress is not None:
            progress(done, total)

    instances = {}
    annotations = _make_folders(folder / 'scenes' / 'annotations')
    with _mapping(total) as map_all:
        for split in _SPLITS:
            target = _make_folders(folder / 'cls' / split, DIGIT_NAMES)
            write = partial(_write_portraits, target, digits[split], renders[split], spec, split)
            for _ in map_all(write, range(len(digits[split].labels))):
                advance(renders[split])
        for split in _SPLITS:
            target = _make_folders(folder / 'scenes' / split, ('images', 'masks'))
            write = partial(_write_scene, target, digits[split], spec, split)
            members = []
            for member in map_all(write, range(scenes[split])):
                members.append(member)
                advance(1)
            document = coco_file(members, spec.scene.scene_size)
            (annotations / f'instances_{split}.json').write_text(json.dumps(document))
            instances[split] = len(document['annotations'])
    return instances


@contextmanager
def _mapping(images: int) -> Iterator[Callable]:
    """Give a ``map`` over indices: one that uses all cores, where that many images are drawn."""
    if images < _MANY:
        yield map
        return
    # Not forked: opencv has threads.
    with ProcessPoolExecutor(mp_context=get_context('spawn'), initializer=_serve_parent) as pool:
        try:
            yield partial(pool.map, chunksize=16)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _serve_parent() -> None:
    """Leave Ctrl-C to the parent, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _make_folders(parent: Path, names: tuple[str, ...] = ('',)) -> Path:
    for name in names:
        (parent / name).mkdir(parents=True, exist_ok=True)
    return parent


def _generator(spec: DigitsSpec, kind: int, split: str, index: int) -> np.random.Generator:
    """Give one digit's images, or one scene, random numbers that nothing else has."""
    return np.random.default_rng([spec.seed, kind, _SPLITS.index(split), index])


def _write_portraits(
    folder: Path, digits: Digits, renders: int, spec: DigitsSpec, split: str, index: int
) -> None:
    """Write all classification images of one digit, ``<source>_<render>.png``."""
    rng = _generator(spec, _PORTRAIT, split, index)
    stem = folder / DIGIT_NAMES[digits.labels[index]] / f'{digits.sources[index]:04d}'
    for render in range(renders):
        image = compose_portrait(digits.images[index], rng, spec)
        _write_png(f'{stem}_{render}.png', image)


def _write_scene(
    folder: Path, digits: Digits, spec: DigitsSpec, split: str, index: int
) -> tuple[str, list[dict[str, Any]]]:
    """Write a scene and its semantic labels; return its name and COCO annotations."""
    scene = compose_scene(digits, _generator(spec, _SCENE, split, index), spec)
    name = f'{index + 1:06d}.png'
    _write_png(folder / 'images' / name, scene.image)
    _write_png(folder / 'masks' / name, scene.semantic)
    return name, [coco_annotation(instance) for instance in scene.instances]


def _write_png(path: str | Path, image: np.ndarray) -> None:
    """Write an RGB or single-channel image; unlike ``cv2.imwrite``, say why when it fails."""
    if image.ndim == 3:
        image = image[..., ::-1]
    content = cv2.imencode('.png', image, _PNG_OPTIONS)[1]
    with open(path, 'wb') as file:
        file.write(content)


def coco_annotation(instance: Instance) -> dict[str, Any]:
    """Describe an instance in COCO's terms, all of what is seen of it.

    Args:
        instance: A digit of a scene.

    Returns:
        ``bbox`` (x, y, width, height, in pixels), compressed RLE ``segmentation``, ``area`` in
        pixels, ``iscrowd`` 0, ``category_id`` (digit + 1), and ``source``, its position in
        scikit-learn's ``load_digits``.
    """
    rle = coco_mask.encode(np.asfortranarray(instance.mask, dtype=np.uint8))
    return {
        'category_id': instance.label + 1,
        'bbox': coco_mask.toBbox(rle).tolist(),
        'area': int(coco_mask.area(rle)),
        'iscrowd': 0,
        'segmentation': {'size': list(rle['size']), 'counts': rle['counts'].decode('ascii')},
        'source': instance.source,
    }


def coco_file(scenes: Iterable[tuple[str, list[dict[str, Any]]]], size: int) -> dict[str, Any]:
    """Collect the annotations of many scenes into one COCO document.

    Args:
        scenes: File name and annotations of each scene, in order.
        size: Height and width of every scene, in pixels.

    Returns:
        ``images``, ``annotations`` and ``categories`` with ids from 1.
    """
    images, annotations = [], []
    for image_id, (name, members) in enumerate(scenes, start=1):
        images.append({'id': image_id, 'file_name': name, 'height': size, 'width': size})
        for member in members:
            annotations.append({'id': len(annotations) + 1, 'image_id': image_id, **member})
    categories = [{'id': label + 1, 'name': name} for label, name in enumerate(DIGIT_NAMES)]
    return {'images': images, 'annotations': annotations, 'categories': categories}
