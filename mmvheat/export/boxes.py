"""Boxes in a graph: anchors that are worth a look, decoding, suppression, pooling of regions.

What mmdet computes with sizes that depend on the data is computed here with as few such sizes as
its exact result allows, and without a branch on them, so that ``torch.export`` and the ONNX
exporter follow it. Boxes are (x1, y1, x2, y2) in pixels of the input. Orders of operations are
mmdet's, so that both round alike.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor, nn

__all__ = ['Candidates', 'Suppression', 'best_anchors', 'decode', 'pool_regions']

# Widths and heights change at most by this factor (a default of mmdet's coder that no config sets).
LARGEST_CHANGE = 1000 / 16


class Candidates(NamedTuple):
    """Boxes of which non-maximum suppression chooses, of a batch.

    Attributes:
        boxes: (N, M, 4).
        scores: (N, M).
        groups: (N, M) int64. A box suppresses those of its own group: its class, or its level.
        valid: (N, M) bool. What is not valid is as if it were not there.
    """

    boxes: Tensor
    scores: Tensor
    groups: Tensor
    valid: Tensor


def decode(coder: Any, anchors: Tensor, deltas: Tensor, size: Sequence[int]) -> Tensor:
    """Move and scale boxes by what a head predicts (Girshick et al., "R-CNN", CVPR 2014).

    Args:
        coder: mmdet's ``DeltaXYWHBBoxCoder``.
        anchors: (..., 4).
        deltas: (..., 4), normalised.
        size: Height and width of the image, at which boxes are cut.

    Returns:
        (..., 4).
    """
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    centres = (anchors[..., :2] + anchors[..., 2:]) * 0.5
    sides = anchors[..., 2:] - anchors[..., :2]
    limit = float(np.log(LARGEST_CHANGE))
    centres = centres + sides * deltas[..., :2]
    sides = sides * deltas[..., 2:].clamp(-limit, limit).exp()
    x1, y1 = (centres - sides * 0.5).unbind(-1)
    x2, y2 = (centres + sides * 0.5).unbind(-1)
    if coder.clip_border:
        height, width = size
        x1, x2 = x1.clamp(0, width), x2.clamp(0, width)
        y1, y2 = y1.clamp(0, height), y2.clamp(0, height)
    return torch.stack((x1, y1, x2, y2), dim=-1)


def best_anchors(
    head: nn.Module, features: Sequence[Tensor], size: Sequence[int], by_level: bool
) -> Candidates:
    """The best predictions of a head with anchors, ``nms_pre`` of its test config a level.

    Args:
        head: mmdet's ``RPNHead`` or ``RetinaHead``.
        features: Maps of the neck, (N, C, H, W) each.
        size: Height and width of the image.
        by_level: Whether a box suppresses those of its level instead of those of its class.
    """
    cfg = head.test_cfg
    most, threshold = cfg.get('nms_pre', -1), cfg.get('score_thr', 0)
    smallest = cfg.get('min_bbox_size', -1)
    maps = [[level.float() for level in maps] for maps in head(features)]
    anchors = head.prior_generator.grid_priors(
        [level.shape[-2:] for level in maps[0]], device=features[0].device
    )
    found = []
    for index, (logits, deltas, priors) in enumerate(zip(*maps, anchors, strict=True)):
        count, classes = logits.size(0), head.cls_out_channels
        logits = logits.permute(0, 2, 3, 1).reshape(count, -1, classes)
        scores = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(-1)[..., :-1]
        classes = scores.size(-1)
        scores = scores.flatten(1)
        scores, order = scores.topk(_smaller(most, scores.size(1)) if most > 0 else scores.size(1))
        labels, order = order % classes, order // classes
        deltas = deltas.permute(0, 2, 3, 1).reshape(count, -1, 4)
        deltas = deltas.gather(1, order[..., None].expand(-1, -1, 4))
        boxes = decode(head.bbox_coder, priors[order], deltas, size)
        found.append((boxes, scores, torch.full_like(labels, index) if by_level else labels))
    boxes, scores, groups = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    # The first stage knows no threshold.
    valid = torch.ones_like(scores, dtype=torch.bool) if by_level else scores > threshold
    if smallest >= 0:
        valid = valid & ((boxes[..., 2:] - boxes[..., :2]) > smallest).all(-1)
    return Candidates(boxes, scores, groups, valid)


class Suppression(nn.Module):
    """Greedy non-maximum suppression among the boxes of a group, with a fixed number of results.

    Args:
        iou_threshold: A box that overlaps a kept one of its group by more is dropped.
        count: Rows of the result, the best ones. Unused rows have box 0, score 0 and group -1.
        class_agnostic: Whether boxes suppress those of other groups, too.
    """

    def __init__(self, iou_threshold: float, count: int, class_agnostic: bool = False) -> None:
        super().__init__()
        # mmcv and ONNX compare with the float32 threshold, torchvision with the float64 one.
        self.iou_threshold = float(np.float32(iou_threshold))
        self.count = count
        self.class_agnostic = class_agnostic

    def forward(self, candidates: Candidates) -> tuple[Tensor, Tensor, Tensor]:
        """Choose boxes.

        Returns:
            Boxes (N, count, 4), scores (N, count), groups (N, count), best score first.
        """
        images = (Candidates(*image) for image in zip(*candidates, strict=True))
        chosen = zip(*(self._choose(image) for image in images), strict=True)
        boxes, scores, groups = (torch.stack(rows) for rows in chosen)
        return boxes, scores, groups

    def _choose(self, image: Candidates) -> tuple[Tensor, Tensor, Tensor]:
        """The same for one image, all without the first dimension."""
        valid = image.valid.nonzero()[:, 0]
        # The last rows stand for nothing, so that no function below meets an empty tensor. They are
        # two: torchvision tells torch.export that at least two boxes are kept.
        boxes = torch.cat((image.boxes[valid], image.boxes.new_zeros(2, 4)))
        scores = torch.cat((image.scores[valid], image.scores.new_zeros(2)))
        groups = torch.cat((image.groups[valid], image.groups.new_full((2,), -1)))
        places = boxes
        if not self.class_agnostic:
            # Groups are moved apart, by as much as mmcv moves them.
            places = boxes + (groups.to(boxes) * (boxes.max() + 1))[:, None]
        kept = torch.ops.torchvision.nms(places, scores, self.iou_threshold)
        kept = torch.cat((kept, kept.new_full((self.count,), -1)))[: self.count]
        return boxes[kept], scores[kept], groups[kept]


def pool_regions(extractor: nn.Module, features: Sequence[Tensor], regions: Tensor) -> Tensor:
    """RoIAlign of every region on the level that suits its size (Lin et al., "FPN", CVPR 2017).

    Args:
        extractor: mmdet's ``SingleRoIExtractor``.
        features: Maps of the neck, (N, C, H, W) each; the first ones are used.
        regions: (K, 5): index of the image, box.

    Returns:
        (K, C, rows, columns).
    """
    layers = extractor.roi_layers
    features = features[: len(layers)]
    boxes = regions[:, 1:]
    sides = boxes[:, 2:] - boxes[:, :2]
    scale = (sides[:, 0] * sides[:, 1]).sqrt() / extractor.finest_scale + 1e-6
    # floor(log2(scale)) within the levels, by comparisons, which every runtime rounds alike.
    levels = torch.zeros_like(scale, dtype=torch.int64)
    for level in range(1, len(layers)):
        levels = levels + (scale >= 2**level)
    pooled = None
    for index, (layer, level) in enumerate(zip(layers, features, strict=True)):
        here = (levels == index)[:, None]
        # A box without a size takes no sample, which costs nothing; OpenVINO gives NaN for it.
        found = torch.ops.torchvision.roi_align(
            level.float(),
            torch.cat((regions[:, :1], boxes * here), dim=1),
            layer.spatial_scale,
            *layer.output_size,
            layer.sampling_ratio,
            layer.aligned,
        )
        pooled = found if pooled is None else torch.where(here[..., None, None], found, pooled)
    return pooled.to(features[0].dtype)


def _smaller(number: int, size: int | torch.SymInt) -> int | torch.SymInt:
    """The smaller of both; with a symbolic size it is a part of the graph that decides nothing."""
    return torch.sym_min(number, size) if isinstance(size, torch.SymInt) else min(number, int(size))
