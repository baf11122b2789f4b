"""Detectors of mmdet as modules that can be exported whole.

The trained modules are mmdet's: backbone, neck, and the layers of the heads. What mmdet does
between them with branches and lists that depend on the data is done by ``boxes.py``. mmdet's own
``predict`` is the truth that tests hold these modules to.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mmvheat.errors import UserError

from .boxes import Candidates, Suppression, best_anchors, decode, pool_regions

__all__ = ['SingleStageDetector', 'TwoStageDetector', 'exportable_detector']

# The classes of mmdet whose prediction is written here, by the name of the attribute. A subclass
# may predict otherwise, so names must agree exactly.
_ROI_HEADS = {
    'StandardRoIHead': {
        'bbox_head': {'ConvFCBBoxHead', 'Shared2FCBBoxHead', 'Shared4Conv1FCBBoxHead'},
        'bbox_roi_extractor': {'SingleRoIExtractor'},
        'mask_head': {'FCNMaskHead'},
        'mask_roi_extractor': {'SingleRoIExtractor'},
    }
}


class _Detector(nn.Module):
    """What detectors share.

    Args:
        detector: A built detector of mmdet.
        dense: Its head with anchors.
    """

    def __init__(self, detector: nn.Module, dense: nn.Module) -> None:
        super().__init__()
        self.detector = detector
        self.smallest_side = 1 + max(max(stride) for stride in dense.prior_generator.strides)

    def maps(self, image: Tensor) -> list[Tensor]:
        """Maps of the neck, or of the backbone where there is no neck."""
        maps = self.detector.backbone(image)
        if not self.detector.with_neck:
            return list(maps)
        neck, pooled = self.detector.neck, 0
        if type(neck).__name__ == 'FPN' and not neck.add_extra_convs:
            pooled = neck.num_outs - len(neck.lateral_convs)
            neck = copy.copy(neck)
            neck.num_outs -= pooled
        maps = list(neck(maps))
        # FPN takes these by max_pool2d of one pixel, which asks torch.export for even sides.
        for _ in range(pooled):
            maps.append(maps[-1][..., ::2, ::2])
        return maps


class SingleStageDetector(_Detector):
    """RetinaNet: images in, boxes, scores and labels out.

    Args:
        detector: A built ``RetinaNet`` of mmdet, in eval mode where it is run or exported.

    Attributes:
        output_names: Names of what ``forward`` returns.
        smallest_side: From which height and width on a graph for any size holds: below it a map
            has one row or column alone, which torch.export takes for a constant.
    """

    output_names = ('boxes', 'scores', 'labels')

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector, detector.bbox_head)
        self.suppression = _suppression(detector.bbox_head.test_cfg)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect.

        Args:
            image: (N, 3, H, W), normalised. N is fixed when the module is exported.

        Returns:
            Boxes (N, K, 4), scores (N, K) and labels (N, K) int64, the best first, with K the
            ``max_per_img`` of the test config. Unused rows have box 0, score 0 and label -1.
        """
        candidates = best_anchors(
            self.detector.bbox_head, self.maps(image), image.shape[-2:], by_level=False
        )
        return self.suppression(candidates)


class TwoStageDetector(_Detector):
    """Faster R-CNN and Mask R-CNN: images in, boxes, scores, labels and masks out.

    Args:
        detector: A built ``FasterRCNN`` or ``MaskRCNN`` of mmdet, in eval mode where it is run or
            exported.

    Attributes:
        output_names: As of ``SingleStageDetector``.
        smallest_side: Likewise.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector, detector.rpn_head)
        self.with_mask = bool(detector.roi_head.with_mask)
        self.output_names = ('boxes', 'scores', 'labels', 'masks')[: 4 if self.with_mask else 3]
        self.proposals = _suppression(detector.rpn_head.test_cfg)
        self.suppression = _suppression(detector.roi_head.test_cfg)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect.

        Args:
            image: (N, 3, H, W), normalised. N is fixed when the module is exported.

        Returns:
            As ``SingleStageDetector``; with a mask head also masks (N, K, h, w), the probability
            of the object inside its box in the size that the head predicts, 0 in unused rows.
        """
        size = image.shape[-2:]
        features = self.maps(image)
        candidates = best_anchors(self.detector.rpn_head, features, size, by_level=True)
        proposals, _, levels = self.proposals(candidates)
        found = self.suppression(self._classify(features, proposals, levels >= 0, size))
        if self.with_mask:
            boxes, _, labels = found
            found = (*found, self._masks(features, boxes, labels))
        return found

    def _classify(
        self, features: list[Tensor], proposals: Tensor, used: Tensor, size: torch.Size
    ) -> Candidates:
        """Every proposal as every class."""
        head, cfg = self.detector.roi_head.bbox_head, self.detector.roi_head.test_cfg
        shape = proposals.shape[:2]
        regions = _with_image(proposals)
        pooled = pool_regions(self.detector.roi_head.bbox_roi_extractor, features, regions)
        logits, deltas = (out.float() for out in head(pooled))
        scores = logits.softmax(-1)[:, :-1].unflatten(0, shape)
        deltas = deltas.reshape(*shape, -1, 4)
        boxes = decode(head.bbox_coder, proposals[:, :, None].expand_as(deltas), deltas, size)
        boxes = boxes.expand(*scores.shape, 4)
        labels = torch.arange(scores.size(-1), device=scores.device).expand_as(scores)
        valid = (scores > cfg.score_thr) & used[..., None]
        return Candidates(*(part.flatten(1, 2) for part in (boxes, scores, labels, valid)))

    def _masks(self, features: list[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Masks of the detections; the head runs on the rows that are used."""
        head = self.detector.roi_head.mask_head
        used = (labels.flatten() >= 0).nonzero()[:, 0]
        regions = _with_image(boxes)[used]
        logits = head(pool_regions(self.detector.roi_head.mask_roi_extractor, features, regions))
        if head.class_agnostic:
            logits = logits[:, 0]
        else:
            chosen = labels.flatten()[used][:, None, None, None]
            logits = logits.gather(1, chosen.expand(-1, 1, *logits.shape[2:]))[:, 0]
        masks = logits.float().sigmoid()
        empty = masks.new_zeros(labels.numel(), *masks.shape[1:])
        return empty.index_put((used,), masks).unflatten(0, labels.shape)


def exportable_detector(detector: nn.Module) -> SingleStageDetector | TwoStageDetector:
    """A detector of mmdet as a module that can be exported whole.

    Args:
        detector: A built detector. Its modules are used, not copied.

    Raises:
        UserError: For a detector that is not written here, or a setting of it. The message names
            the part; what is left is to export backbone and neck.
    """
    kind = type(detector).__name__
    if kind == 'RetinaNet':
        _check_dense(detector.bbox_head, 'RetinaHead')
        return SingleStageDetector(detector)
    if kind not in ('FasterRCNN', 'MaskRCNN'):
        raise _unknown(kind, 'FasterRCNN, MaskRCNN and RetinaNet are')
    _check_dense(detector.rpn_head, 'RPNHead')
    _check_roi_head(detector.roi_head)
    return TwoStageDetector(detector)


def _with_image(boxes: Tensor) -> Tensor:
    """Boxes (N, K, 4) as regions (N * K, 5): index of the image before the box."""
    images = torch.arange(boxes.size(0), device=boxes.device, dtype=boxes.dtype)
    images = images[:, None, None].expand(-1, boxes.size(1), 1)
    return torch.cat((images, boxes), dim=2).flatten(0, 1)


def _suppression(cfg: Any) -> Suppression:
    """The suppression of a test config, or a word about what it has that is not written here."""
    nms = dict(cfg.nms)
    kind, threshold = nms.pop('type', 'nms'), nms.pop('iou_threshold', None)
    class_agnostic = bool(nms.pop('class_agnostic', False))
    nms.pop('split_thr', None)  # splits the work, not the result
    if kind != 'nms' or threshold is None or nms:
        raise _unknown(f'{dict(cfg.nms)} in test_cfg', "type='nms' with iou_threshold is")
    if cfg.max_per_img <= 0:
        raise _unknown(
            f'max_per_img={cfg.max_per_img} in test_cfg', 'a positive number, the rows of the file,'
        )
    return Suppression(threshold, cfg.max_per_img, class_agnostic)


def _check_dense(head: nn.Module, expected: str) -> None:
    _check_kind(head, {expected})
    _check_kind(head.prior_generator, {'AnchorGenerator'})
    _check_coder(head.bbox_coder)
    _check_activation(head)


def _check_roi_head(roi_head: nn.Module) -> None:
    _check_kind(roi_head, set(_ROI_HEADS))
    for name, kinds in _ROI_HEADS[type(roi_head).__name__].items():
        if roi_head.with_mask or not name.startswith('mask'):
            _check_kind(getattr(roi_head, name), kinds)
    head = roi_head.bbox_head
    _check_coder(head.bbox_coder)
    _check_activation(head)
    if not (head.with_cls and head.with_reg):
        raise _unknown('a box head without classes or without boxes', 'one with both is')
    for layer in roi_head.bbox_roi_extractor.roi_layers:
        _check_kind(layer, {'RoIAlign'})
        if layer.pool_mode != 'avg':
            raise _unknown(f'RoIAlign with pool_mode={layer.pool_mode!r}', "'avg' is")


def _check_kind(part: Any, kinds: set[str]) -> None:
    if type(part).__name__ not in kinds:
        raise _unknown(type(part).__name__, f'{", ".join(sorted(kinds))} is')


def _check_coder(coder: Any) -> None:
    _check_kind(coder, {'DeltaXYWHBBoxCoder'})
    if coder.add_ctr_clamp:
        raise _unknown('add_ctr_clamp of the box coder', 'a coder without it is')


def _check_activation(head: nn.Module) -> None:
    if getattr(head.loss_cls, 'custom_cls_channels', False):
        raise _unknown(
            f'{type(head.loss_cls).__name__} with its own activation', 'softmax or sigmoid is'
        )


def _unknown(what: str, known: str) -> UserError:
    return UserError(f'{what} cannot be exported whole ({known}): export backbone and neck instead')
