"""A handful of drawn scenes in the formats of the three libraries."""

import json
from pathlib import Path

import cv2
import numpy as np

__all__ = ['make_tiny_data']

# 7 is odd, so that one of two processes gets a padded sample; so is 5.
SAMPLES = {'train': 7, 'val': 5}


def _scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Draw a square and a disc on noise: image, label map and the two masks."""
    image = rng.integers(0, 90, (64, 64, 3), dtype=np.uint8)
    masks = []
    for shape in ('square', 'disc'):
        mask = np.zeros((64, 64), np.uint8)
        x, y, size = (int(n) for n in (*rng.integers(4, 40, 2), rng.integers(8, 20)))
        if shape == 'square':
            mask[y : y + size, x : x + size] = 1
        else:
            cv2.circle(mask, (x + size // 2, y + size // 2), size // 2, 1, -1)
        masks.append(mask)
        image[mask > 0] = rng.integers(150, 256, 3)
    return image, np.maximum(masks[0], 2 * masks[1]), masks


def make_tiny_data(root: Path) -> None:
    """Write images of 64 x 64 with a square and a disc each, 7 to train on and 5 to validate.

    ``classes/{split}/{a,b,c}`` for mmpretrain, ``{split}.json`` and ``scenes/{split}`` for mmdet,
    ``labels/{split}`` for mmseg.
    """
    rng = np.random.default_rng(0)
    for split, count in SAMPLES.items():
        for folder in ('scenes', 'labels', *(f'classes/{split}/{name}' for name in 'abc')):
            path = root / folder if folder.startswith('classes') else root / folder / split
            path.mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for number in range(count):
            image, labels, masks = _scene(rng)
            name = f'{number:03}.png'
            cv2.imwrite(str(root / 'scenes' / split / name), image)
            cv2.imwrite(str(root / 'labels' / split / name), labels)
            cv2.imwrite(str(root / 'classes' / split / 'abc'[number % 3] / name), image)
            images.append(dict(id=number, file_name=name, width=64, height=64))
            for category, mask in enumerate(masks, start=1):
                outline, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=number,
                        category_id=category,
                        bbox=[int(n) for n in cv2.boundingRect(mask)],
                        area=int(mask.sum()),
                        iscrowd=0,
                        segmentation=[outline[0].ravel().tolist()],
                    )
                )
        categories = [dict(id=1, name='square'), dict(id=2, name='disc')]
        coco = dict(images=images, annotations=annotations, categories=categories)
        (root / f'{split}.json').write_text(json.dumps(coco))
