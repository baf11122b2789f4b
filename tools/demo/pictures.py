"""Contact sheets of predictions beside the truth."""

import contextlib
import io
import pickle
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib.font_manager import findfont
from matplotlib.patches import Patch
from PIL import ImageDraw, ImageFont
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torch import Tensor
from torchvision.io import read_image
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks, make_grid

from mmvheat.visualization.plots import save_figure, styled
from mmvheat.visualization.plots.style import Figure

__all__ = [
    'draw_data',
    'draw_detections',
    'draw_instances',
    'draw_segmentations',
    'enlarge',
    'largest_instance',
    'middle_pixel',
]

_COLOURS = [
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48),
    (145, 30, 180), (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212),
]  # fmt: skip
_SCALE = 3
# In pixels of the scene; on less the name of an area would hide it.
_NAMED_AREA = 60
# Dots an inch that pictures are saved with: a pixel of an enlarged image is a dot.
_DPI = 120
# Room beside the images for titles, in pixels.
LEFT, TOP, BOTTOM = 40, 60, 50


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
        image = enlarge(read_image(str(root / 'scenes' / 'train' / 'images' / info['file_name'])))
        four = make_grid(digits[4 * column : 4 * column + 4], nrow=2, padding=0)
        columns.append([four, image, _draw_truth(image, coco, info['id'])])
    rows = ('digits', 'scenes', 'scenes and labels')
    return _write_picture(columns, out, 'What the demo learns from', rows)


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
        image = enlarge(read_image(sample['img_path']))
        found = sample['pred_instances']
        keep = found['scores'] > 0.5
        masks = [
            coco_mask.decode(rle) for rle, kept in zip(found['masks'], keep, strict=True) if kept
        ]
        labels = found['labels'][keep].tolist()
        scores = [f' {score:.2f}' for score in found['scores'][keep].tolist()]
        columns.append(
            [
                image,
                _draw_truth(image, coco, sample['img_id']),
                draw_instances(image, found['bboxes'][keep], masks, labels, scores),
            ]
        )
    title = 'Mask R-CNN: validation scenes'
    rows = ('scenes', 'truth', 'predictions with a score over 0.5')
    return _write_picture(columns, out, title, rows)


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
        image = enlarge(read_image(sample['img_path']))
        truth = read_image(str(mask_dir / Path(sample['img_path']).name))[0].long() - 1
        labels = torch.from_numpy(np.asarray(sample['pred_sem_seg'])).long()
        columns.append([image, _draw_labels(image, truth), _draw_labels(image, labels)])
    title = 'UperNet: validation scenes'
    return _write_picture(columns, out, title, ('scenes', 'truth', 'predictions'))


def largest_instance(annotations: Path) -> tuple[str, tuple[int, int]]:
    """Find the largest digit of the first scene.

    Args:
        annotations: COCO file of scenes.

    Returns:
        File name of the scene, and row and column of a pixel of the digit near its middle.
    """
    coco = _quiet_coco(annotations)
    (info,) = coco.loadImgs(coco.getImgIds()[:1])
    largest = max(coco.loadAnns(coco.getAnnIds(info['id'])), key=lambda one: one['area'])
    return info['file_name'], middle_pixel(np.argwhere(coco.annToMask(largest)))


def middle_pixel(pixels: np.ndarray) -> tuple[int, int]:
    """Find row and column of the pixel nearest to the middle of some, of shape (N, 2)."""
    row, column = pixels[np.abs(pixels - pixels.mean(0)).sum(1).argmin()].tolist()
    return row, column


def _quiet_coco(annotations: Path) -> COCO:
    """Open a COCO file without its chatter."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(annotations))


def enlarge(image: Tensor) -> Tensor:
    """Enlarge a (C, H, W) picture so that labels can be read."""
    return image.repeat_interleave(_SCALE, -1).repeat_interleave(_SCALE, -2)


def _label_digit(image: Tensor, digit: int) -> Tensor:
    """Enlarge a picture of one digit and put its label into the corner."""
    image = enlarge(image)
    height, width = image.shape[-2:]
    box = torch.tensor([[0, 0, width - 1, height - 1]])
    return _draw_boxes(image, box, [digit])


def _draw_truth(image: Tensor, coco: COCO, image_id: int) -> Tensor:
    """Draw what a COCO file says of an image on its enlarged picture."""
    truth = coco.loadAnns(coco.getAnnIds(image_id))
    boxes = torch.tensor([a['bbox'] for a in truth], dtype=torch.float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    digits = [int(coco.cats[a['category_id']]['name']) for a in truth]
    return draw_instances(image, boxes, [coco.annToMask(a) for a in truth], digits)


def draw_instances(
    image: Tensor,
    boxes: Tensor,
    masks: list[np.ndarray],
    digits: list[int],
    scores: list[str] | None = None,
) -> Tensor:
    """Draw boxes, masks and digits on an enlarged picture.

    Args:
        image: Shape (3, H, W), uint8, see :func:`enlarge`.
        boxes: Corners (left, top, right, bottom) of each in the image before it was enlarged.
        masks: Of the same image.
        digits: What they are.
        scores: What follows the digits.
    """
    if not digits:
        return image
    for mask, digit in zip(masks, digits, strict=True):
        # One after the other: drawn at once, overlapping masks would mix to brown.
        enlarged = enlarge(torch.from_numpy(mask).bool())
        image = draw_segmentation_masks(image, enlarged, alpha=0.6, colors=_COLOURS[digit])
    return _draw_boxes(image, boxes * _SCALE, digits, scores)


def _draw_boxes(
    image: Tensor, boxes: Tensor, digits: list[int], scores: list[str] | None = None
) -> Tensor:
    """Draw boxes with their digits, each in its colour, and with what follows the digit."""
    image = draw_bounding_boxes(image, boxes, colors=[_COLOURS[d] for d in digits], width=2)
    picture = to_pil_image(image)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.truetype(findfont('DejaVu Sans'), 18)
    for box, digit, score in zip(boxes, digits, scores or [''] * len(digits), strict=True):
        text = f'{digit}{score}'
        # Not beyond the right edge.
        place = (min(float(box[0]), picture.width - draw.textlength(text, font)), float(box[1]))
        _write_on_black(draw, place, text, font, 'la')
    return pil_to_tensor(picture)


def _write_on_black(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    font: ImageFont.FreeTypeFont,
    anchor: str,
) -> None:
    """Write on a picture whose digits are of all colours."""
    draw.rectangle(draw.textbbox(place, text, font, anchor), fill='black')
    draw.text(place, text, 'white', font, anchor)


def _draw_labels(image: Tensor, labels: Tensor) -> Tensor:
    """Lay a label map over an enlarged picture and name its areas; background stays as it is."""
    masks = labels[None] == torch.arange(1, 11)[:, None, None]
    image = draw_segmentation_masks(image, enlarge(masks), alpha=0.8, colors=_COLOURS)
    picture = to_pil_image(image)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.truetype(findfont('DejaVu Sans'), 16)
    for digit, mask in enumerate(masks.numpy().astype(np.uint8)):
        # Ten colours are too many to be told apart by all.
        count, areas = cv2.connectedComponents(mask)
        for area in range(1, count):
            pixels = np.argwhere(areas == area)
            if len(pixels) >= _NAMED_AREA:
                row, column = middle_pixel(pixels)
                place = (column + 0.5) * _SCALE, (row + 0.5) * _SCALE
                _write_on_black(draw, place, str(digit), font, 'mm')
    return pil_to_tensor(picture)


@styled
def _write_picture(
    columns: list[list[Tensor]], out: Path, title: str, rows: tuple[str, ...]
) -> Path:
    """Write pictures, one list a column, as one PNG with a title, names of rows and a legend."""
    by_row = [picture for row in zip(*columns, strict=True) for picture in row]
    grid = make_grid(by_row, nrow=len(columns), padding=4, pad_value=255)
    height, width = grid.shape[1:]
    whole = (width + LEFT, height + TOP + BOTTOM)
    figure = Figure(figsize=(whole[0] / _DPI, whole[1] / _DPI), dpi=_DPI, layout='none')
    axes = figure.add_axes(
        (LEFT / whole[0], BOTTOM / whole[1], width / whole[0], height / whole[1])
    )
    axes.imshow(grid.permute(1, 2, 0), interpolation='none')
    axes.axis('off')
    for number, name in enumerate(rows):
        middle = BOTTOM + height * (1 - (number + 0.5) / len(rows))
        place = (0.4 * LEFT / whole[0], middle / whole[1])
        figure.text(*place, name, rotation=90, va='center', ha='center', fontsize=13)
    figure.suptitle(title, fontsize=17)
    patches = [
        Patch(color=[part / 255 for part in colour], label=f'digit {digit}')
        for digit, colour in enumerate(_COLOURS)
    ]
    figure.legend(handles=patches, loc='lower center', ncols=10, fontsize=13)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, out)
    return out
