"""Non-maximum suppression and overlaps of boxes.

Boxes are (x1, y1, x2, y2) in pixels. With ``offset`` 1 a box ends after the pixel x2, as in data
sets that count pixels, else at the coordinate x2. Rules are those of ``csrc/pytorch/cpu/nms.cpp``
in mmcv.
"""

import numpy as np
import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

from .precision import wide

__all__ = ['bbox_overlaps', 'nms', 'nms_match', 'softnms']


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes: (N, 4).
        scores: (N,).
        iou_threshold: A box that overlaps a kept one by more is dropped.
        offset: 0 or 1, see the module.

    Returns:
        Indices of the kept boxes (int64), best score first.
    """
    boxes, scores = wide(boxes), wide(scores)
    if offset:
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    # mmcv compares with the float32 threshold, torchvision with the float64 one.
    return torch.ops.torchvision.nms(boxes, scores, float(np.float32(iou_threshold)))


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft non-maximum suppression: overlapping boxes lose score instead of being dropped.

    Args:
        boxes: (N, 4) on the CPU, as mmcv hands them over.
        scores: (N,).
        dets: (N, 5), written: kept boxes with their scores, in order of choice.
        iou_threshold: From this overlap on, methods 0 and 1 lower the score.
        sigma: Width of method 2.
        min_score: A box whose lowered score is below is dropped.
        method: 0 sets overlapping boxes to zero, 1 is linear, 2 is Gaussian.
        offset: 0 or 1, see the module.

    Returns:
        Indices of the kept boxes (int64), as many as ``dets`` has valid rows.
    """
    # One row a box: corners, score. Chosen boxes are at the front, dropped ones leave at the end.
    rows = np.concatenate((boxes.float().numpy(), scores.float().numpy()[:, None]), axis=1)
    order = np.arange(len(rows))
    i, count = 0, len(rows)
    while i < count:
        # The first of the best; a NaN (of an overlap 0 / 0) wins only in its turn.
        best = i if np.isnan(rows[i, 4]) else i + int(np.nanargmax(rows[i:count, 4]))
        rows[[i, best]], order[[i, best]] = rows[[best, i]], order[[best, i]]
        i += 1
        overlap = _overlaps_of(rows[i - 1], rows[i:count], offset)
        if method == 2:
            weight = np.exp(-(overlap * overlap) / np.float32(sigma))
        else:
            low = 1 - overlap if method == 1 else np.float32(0)
            weight = np.where(overlap >= np.float32(iou_threshold), low, np.float32(1))
        rows[i:count, 4] *= weight
        dropped = rows[i:count, 4] < np.float32(min_score)
        left = count - int(dropped.sum())
        # Boxes from the end fill the gaps, which decides between equal scores later.
        gaps = i + np.flatnonzero(dropped[: left - i])
        movers = left + np.flatnonzero(~dropped[left - i :])[::-1]
        rows[gaps], order[gaps] = rows[movers], order[movers]
        count = left
    dets[:count] = torch.from_numpy(rows[:count])
    return torch.from_numpy(order[:count])


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of boxes: each kept one with those that it suppresses.

    Args:
        dets: (N, 5) on the CPU, boxes with scores.
        iou_threshold: A box that overlaps a kept one by as much or more joins its group.

    Returns:
        Indices of every group, best score first, the groups by their best score.
    """
    rows = dets.float().numpy()
    order = torch.argsort(dets[:, 4], descending=True, stable=True).numpy()
    groups = []
    while len(order):
        first, rest = order[0], order[1:]
        joins = _overlaps_of(rows[first], rows[rest], 0) >= np.float32(iou_threshold)
        groups.append([int(first), *rest[joins].tolist()])
        order = rest[~joins]
    return groups


def _overlaps_of(box: np.ndarray, others: np.ndarray, offset: int) -> np.ndarray:
    """IoU of a box (5,) with others (N, 5), float32; NaN where both areas are zero."""
    side = np.float32(offset)
    sizes = np.maximum(
        np.minimum(box[2:4], others[:, 2:4]) - np.maximum(box[:2], others[:, :2]) + side, 0
    )
    shared = sizes[:, 0] * sizes[:, 1]
    area = np.prod(box[2:4] - box[:2] + side)
    areas = np.prod(others[:, 2:4] - others[:, :2] + side, axis=1)
    with np.errstate(divide='ignore', invalid='ignore'):
        return shared / (area + areas - shared)


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Overlaps of two sets of boxes.

    Args:
        bboxes1: (M, 4).
        bboxes2: (N, 4); as many as ``bboxes1`` where ``aligned``.
        ious: Written: (M,) where ``aligned``, else (M, N).
        mode: 0 divides by the union, 1 by the area of the first box.
        aligned: Compare boxes of the same index only.
        offset: 0 or 1, see the module.
    """
    first, second = wide(bboxes1), wide(bboxes2)
    if not aligned:
        first = first[:, None]
    top_left = torch.maximum(first[..., :2], second[..., :2])
    bottom_right = torch.minimum(first[..., 2:], second[..., 2:])
    shared = (bottom_right - top_left + offset).clamp_(min=0).prod(dim=-1)
    base = (first[..., 2:] - first[..., :2] + offset).prod(dim=-1)
    if mode == 0:
        base = base + (second[..., 2:] - second[..., :2] + offset).prod(dim=-1) - shared
    ious.copy_(shared / base)
