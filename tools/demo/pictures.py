"""Contact sheets of predictions beside the truth."""

import contextlib
import io
import pickle
from pathlib import Path

import numpy as np
import torch
from matplotlib.font_manager import findfont
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torch import Tensor
from torchvision.io import read_image, write_png
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks, make_grid

__all__ = ['draw_data', 'draw_detections', 'draw_segmentations']

_COLOURS = [
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48),
    (145, 30, 180), (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212),
]  # fmt: skip
_SCALE = 3


def draw_data(root: Path, out: Path, scenes: int = 6) -> Path:
    """Draw single digits above, scenes in the middle and below the scenes with their labels.

    Args:
        root: Folder that ``prepare_digits`` made.
        out: PNG file to write.
        scenes: How many scenes; four digits above each.
    """
    coco = _quiet_coco(root / 'scenes' / 'annotations' / 'instances_train.json')
    # The first rendering of each source, so that a digit is seen once.
    files = [sorted((root / 'cls' / 'train' / f'{n}').glob('*_0.png')) for n in range(10)]
    digits = [
        _label_digit(read_image(str(files[n % 10][n // 10])), n % 10) for n in range(4 * scenes)
    ]
    columns = []
    for column, info in enumerate(coco.loadImgs(coco.getImgIds()[:scenes])):
        image = _enlarge(read_image(str(root / 'scenes' / 'train' / 'images' / info['file_name'])))
        four = make_grid(digits[4 * column : 4 * column + 4], nrow=2, padding=0)
        columns.append([four, image, _draw_truth(image, coco, info['id'])])
    return _write_grid(columns, out)


def draw_detections(predictions: Path, annotations: Path, out: Path, scenes: int = 6) -> Path:
    """Draw scenes above, the truth in the middle and predicted boxes and masks below.

    Args:
        predictions: What ``tools/test.py --out`` wrote.
        annotations: COCO file of the same scenes.
        out: PNG file to write.
        scenes: How many scenes.
    """
    with predictions.open('rb') as file:
        samples = pickle.load(file)[:scenes]
    coco = _quiet_coco(annotations)
    columns = []
    for sample in samples:
        image = _enlarge(read_image(sample['img_path']))
        found = sample['pred_instances']
        keep = found['scores'] > 0.5
        masks = [
            coco_mask.decode(rle) for rle, kept in zip(found['masks'], keep, strict=True) if kept
        ]
        labels = [f'{label}' for label in found['labels'][keep].tolist()]
        columns.append(
            [
                image,
                _draw_truth(image, coco, sample['img_id']),
                _draw_instances(image, found['bboxes'][keep], masks, labels),
            ]
        )
    return _write_grid(columns, out)


def draw_segmentations(predictions: Path, mask_dir: Path, out: Path, scenes: int = 6) -> Path:
    """Draw scenes above, the truth in the middle and the predicted label maps below.

    Args:
        predictions: What ``tools/test.py --out`` wrote.
        mask_dir: Folder of the true label maps, 0 void, 1 background, 2 to 11 the digits.
        out: PNG file to write.
        scenes: How many scenes.
    """
    with predictions.open('rb') as file:
        samples = pickle.load(file)[:scenes]
    columns = []
    for sample in samples:
        image = _enlarge(read_image(sample['img_path']))
        truth = read_image(str(mask_dir / Path(sample['img_path']).name))[0].long() - 1
        labels = torch.from_numpy(np.asarray(sample['pred_sem_seg'])).long()
        columns.append([image, _draw_labels(image, truth), _draw_labels(image, labels)])
    return _write_grid(columns, out)


def _quiet_coco(annotations: Path) -> COCO:
    """Open a COCO file without its chatter."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(annotations))


def _enlarge(image: Tensor) -> Tensor:
    """Enlarge a (C, H, W) picture so that labels can be read."""
    return image.repeat_interleave(_SCALE, -1).repeat_interleave(_SCALE, -2)


def _label_digit(image: Tensor, digit: int) -> Tensor:
    """Enlarge a picture of one digit and put its label into the corner."""
    image = _enlarge(image)
    height, width = image.shape[-2:]
    box = torch.tensor([[0, 0, width - 1, height - 1]])
    return _draw_boxes(image, box, [f'{digit}'])


def _draw_truth(image: Tensor, coco: COCO, image_id: int) -> Tensor:
    """Draw what a COCO file says of an image on its enlarged picture."""
    truth = coco.loadAnns(coco.getAnnIds(image_id))
    boxes = torch.tensor([a['bbox'] for a in truth], dtype=torch.float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    names = [coco.cats[a['category_id']]['name'] for a in truth]
    return _draw_instances(image, boxes, [coco.annToMask(a) for a in truth], names)


def _draw_instances(
    image: Tensor, boxes: Tensor, masks: list[np.ndarray], names: list[str]
) -> Tensor:
    """Draw boxes, masks and names on an enlarged picture."""
    if not names:
        return image
    colours = [_COLOURS[int(name)] for name in names]
    for mask, colour in zip(masks, colours, strict=True):
        # One after the other: drawn at once, overlapping masks would mix to brown.
        enlarged = _enlarge(torch.from_numpy(mask).bool())
        image = draw_segmentation_masks(image, enlarged, alpha=0.6, colors=colour)
    return _draw_boxes(image, boxes * _SCALE, names)


def _draw_boxes(image: Tensor, boxes: Tensor, names: list[str]) -> Tensor:
    """Draw boxes with the names of their digits, each digit in its colour."""
    colours = [_COLOURS[int(name)] for name in names]
    return draw_bounding_boxes(
        image, boxes, names, colours, width=2, font=findfont('DejaVu Sans'), font_size=18
    )


def _draw_labels(image: Tensor, labels: Tensor) -> Tensor:
    """Lay a label map over an enlarged picture; background stays as it is."""
    classes = torch.arange(1, 11)[:, None, None]
    masks = _enlarge(labels[None] == classes)
    return draw_segmentation_masks(image, masks, alpha=0.8, colors=_COLOURS)


def _write_grid(columns: list[list[Tensor]], out: Path) -> Path:
    """Write pictures, one list a column, as one PNG."""
    out.parent.mkdir(parents=True, exist_ok=True)
    by_row = [picture for row in zip(*columns, strict=True) for picture in row]
    write_png(make_grid(by_row, nrow=len(columns), padding=4, pad_value=255), str(out))
    return out
