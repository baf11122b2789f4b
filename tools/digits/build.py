"""Every image and annotation of the embedded data, written below one folder."""

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from .drawing import Digits, Instance, Scene, compose_portrait, compose_scene, load_digits
from .spec import DIGIT_NAMES, DigitsSpec

__all__ = [
    'PORTRAIT',
    'SCENE',
    'SPLITS',
    'Plan',
    'build',
    'build_digits',
    'coco_annotation',
    'coco_file',
    'generator',
]

SPLITS = ('train', 'val')
PORTRAIT, SCENE = range(2)
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


@dataclass(frozen=True)
class Plan:
    """The images of a data set: its things alone, and composed into scenes.

    Attributes:
        names: The classes.
        scene_size: Height and width of a scene, in pixels.
        things: How many things each split has.
        renders: Images of each thing in a split.
        scenes: Scenes of each split.
        portray: Draws thing ``index`` of a split, ``portray(split, index)``: its label, a stem for
            its files, and its images.
        compose: Draws scene ``index`` of a split, ``compose(split, index)``.
    """

    names: tuple[str, ...]
    scene_size: int
    things: Mapping[str, int]
    renders: Mapping[str, int]
    scenes: Mapping[str, int]
    portray: Callable[[str, int], tuple[int, str, Iterable[np.ndarray]]]
    compose: Callable[[str, int], Scene]


def build_digits(
    folder: Path,
    spec: DigitsSpec,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Write the digits, see :func:`build`.

    Args:
        folder: An empty folder.
        spec: What to write.
        progress: As of :func:`build`.
    """
    digits = {
        'train': load_digits('train', spec.num_train_digits),
        'val': load_digits('val', spec.num_val_digits),
    }
    plan = Plan(
        names=DIGIT_NAMES,
        scene_size=spec.scene.scene_size,
        things={split: len(digits[split].labels) for split in SPLITS},
        renders={'train': spec.train_renders, 'val': spec.val_renders},
        scenes={'train': spec.num_train_scenes, 'val': spec.num_val_scenes},
        portray=partial(_portray, digits, spec),
        compose=partial(_compose, digits, spec),
    )
    return build(folder, plan, progress)


def build(
    folder: Path, plan: Plan, progress: Callable[[int, int], None] | None = None
) -> dict[str, int]:
    """Write a data set.

    Everything that is drawn has a seed of its own, so the first ones stay what they are when more
    are asked for.

    Args:
        folder: An empty folder.
        plan: What to write.
        progress: Called with images done and images in all, after each.

    Returns:
        Number of scene instances of ``'train'`` and ``'val'``.

    Raises:
        OSError: If something cannot be written.
    """
    total = sum(plan.things[split] * plan.renders[split] + plan.scenes[split] for split in SPLITS)
    done = 0

    def advance(images: int) -> None:
        nonlocal done
        done += images
        if progress is not None:
            progress(done, total)

    instances = {}
    annotations = _make_folders(folder / 'scenes' / 'annotations')
    with _mapping(total) as map_all:
        for split in SPLITS:
            target = _make_folders(folder / 'cls' / split, plan.names)
            write = partial(_write_portraits, target, plan.names, plan.portray, split)
            for _ in map_all(write, range(plan.things[split])):
                advance(plan.renders[split])
        for split in SPLITS:
            target = _make_folders(folder / 'scenes' / split, ('images', 'masks'))
            write = partial(_write_scene, target, plan.compose, split)
            members = []
            for member in map_all(write, range(plan.scenes[split])):
                members.append(member)
                advance(1)
            document = coco_file(members, plan.scene_size, plan.names)
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


def generator(seed: int, kind: int, split: str, index: int) -> np.random.Generator:
    """Give the images of one thing, or one scene, random numbers that nothing else has.

    Args:
        seed: Of the data set.
        kind: :data:`PORTRAIT` or :data:`SCENE`.
        split: ``'train'`` or ``'val'``.
        index: Which of the split.
    """
    return np.random.default_rng([seed, kind, SPLITS.index(split), index])


def _portray(
    digits: Mapping[str, Digits], spec: DigitsSpec, split: str, index: int
) -> tuple[int, str, Iterable[np.ndarray]]:
    """Draw all classification images of one digit."""
    own = digits[split]
    rng = generator(spec.seed, PORTRAIT, split, index)
    renders = spec.train_renders if split == 'train' else spec.val_renders
    images = (compose_portrait(own.images[index], rng, spec) for _ in range(renders))
    return int(own.labels[index]), f'{own.sources[index]:04d}', images


def _compose(digits: Mapping[str, Digits], spec: DigitsSpec, split: str, index: int) -> Scene:
    return compose_scene(digits[split], generator(spec.seed, SCENE, split, index), spec)


def _write_portraits(
    folder: Path, names: tuple[str, ...], portray: Callable, split: str, index: int
) -> None:
    """Write all classification images of one thing, ``<stem>_<render>.png``."""
    label, stem, images = portray(split, index)
    for render, image in enumerate(images):
        _write_png(folder / names[label] / f'{stem}_{render}.png', image)


def _write_scene(
    folder: Path, compose: Callable, split: str, index: int
) -> tuple[str, list[dict[str, Any]]]:
    """Write a scene and its semantic labels; return its name and COCO annotations."""
    scene = compose(split, index)
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
        instance: A thing in a scene.

    Returns:
        ``bbox`` (x, y, width, height, in pixels), compressed RLE ``segmentation``, ``area`` in
        pixels, ``iscrowd`` 0, ``category_id`` (label + 1), and ``source``, which tells things of
        one class apart.
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


def coco_file(
    scenes: Iterable[tuple[str, list[dict[str, Any]]]], size: int, names: tuple[str, ...]
) -> dict[str, Any]:
    """Collect the annotations of many scenes into one COCO document.

    Args:
        scenes: File name and annotations of each scene, in order.
        size: Height and width of every scene, in pixels.
        names: The classes.

    Returns:
        ``images``, ``annotations`` and ``categories`` with ids from 1.
    """
    images, annotations = [], []
    for image_id, (name, members) in enumerate(scenes, start=1):
        images.append({'id': image_id, 'file_name': name, 'height': size, 'width': size})
        for member in members:
            annotations.append({'id': len(annotations) + 1, 'image_id': image_id, **member})
    categories = [{'id': label + 1, 'name': name} for label, name in enumerate(names)]
    return {'images': images, 'annotations': annotations, 'categories': categories}
