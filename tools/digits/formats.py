"""Scenes as the libraries read them: COCO annotations of instances."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from .extras import require
from .scenes import Instance
from .spec import DIGIT_NAMES

coco_mask = require('pycocotools.mask')

__all__ = ['coco_annotation', 'coco_file']


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
