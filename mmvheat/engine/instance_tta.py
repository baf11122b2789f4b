"""Test-time augmentation of detectors, with or without masks. Needs mmdet.

``tools/test.py --tta`` imports this module; a config that names the model itself needs
``custom_imports=dict(imports=['mmvheat.engine.instance_tta'])``.
"""

from collections.abc import Sequence
from itertools import chain

import torch
from mmcv.ops import batched_nms
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip
from mmengine.config import ConfigDict
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmvheat.errors import UserError
from mmvheat.registry import MODELS

__all__ = ['InstanceTTAModel']

_FLIPPED_AXES = {'horizontal': (-1,), 'vertical': (-2,), 'diagonal': (-2, -1)}


@MODELS.register_module()
@MMENGINE_MODELS.register_module()
class InstanceTTAModel(DetTTAModel):
    """mmdet's ``DetTTAModel`` that merges masks too.

    The boxes of all views (flips and scales of an image) are mapped back into the original image
    and merged by NMS. Whatever else belongs to a surviving box goes with it: label, mask, mask
    score. A single view has been through the model's own NMS and needs no merging: it is mapped
    back and else left as it is, so the identity alone gives the plain result.

    The merged sample keeps ground truth and meta data of the first view: let that be the one that
    is not flipped if an evaluator reads them.

    Args:
        module: The detector, or its config.
        tta_cfg: How to merge: ``nms``, what :func:`mmcv.ops.batched_nms` takes, and
            ``max_per_img``, how many boxes of an image to keep (all, if not positive). What is
            absent comes from ``rcnn`` of the detector's ``test_cfg``, or from that itself; where
            these say nothing, NMS at an IoU of 0.5 and 100 boxes.
        data_preprocessor: Replaces that of a detector given as a config.

    Raises:
        UserError: If ``tta_cfg`` holds anything else.
    """

    def __init__(
        self,
        module: dict | nn.Module,
        tta_cfg: dict | None = None,
        data_preprocessor: dict | nn.Module | None = None,
    ) -> None:
        super().__init__(module=module, data_preprocessor=data_preprocessor)
        tta_cfg = tta_cfg or {}
        defaults = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
        if unknown := set(tta_cfg) - set(defaults):
            raise UserError(f'tta_cfg takes nms and max_per_img, got {", ".join(sorted(unknown))}')
        settings = getattr(self.module, 'test_cfg', None) or {}
        settings = settings.get('rcnn') or settings
        own = {key: settings[key] for key in defaults if key in settings}
        self.tta_cfg = ConfigDict({**defaults, **own, **tta_cfg})

    def test_step(self, data: dict | Sequence) -> list:
        """Predict every view as an image of its own, and merge.

        Args:
            data: As mmdet's loaders collate them: inputs and data samples, each a list of views.

        Returns:
            A merged sample for each image, see :meth:`merge_preds`.
        """
        views = data['data_samples'] if isinstance(data, dict) else data[1]
        # A cascade's mask heads would flip the masks of a flipped view by themselves, and fail.
        for sample in chain.from_iterable(views):
            sample.set_metainfo(dict(flip=False, view_flip=sample.metainfo.get('flip', False)))
        return super().test_step(data)

    def merge_preds(self, data_samples_list: Sequence[Sequence[DetDataSample]]) -> list:
        """Merge the predictions of the views of each image.

        Args:
            data_samples_list: For each image its views, with ``pred_instances`` scaled to the
                original image: ``bboxes`` (n, 4) as x1, y1, x2, y2 in pixels, ``scores`` (n,),
                ``labels`` (n,) and, if the model has them, ``masks`` (n, H, W).

        Returns:
            For each image its first view with the merged ``pred_instances``, by falling score.
        """
        for sample in chain.from_iterable(data_samples_list):
            if 'view_flip' in sample.metainfo:
                sample.set_metainfo(dict(flip=sample.metainfo['view_flip']))
                del sample.view_flip
        return [self._merge_views(views) for views in data_samples_list]

    def _merge_views(self, views: Sequence[DetDataSample]) -> DetDataSample:
        found = [view.pred_instances for view in views]
        scores, keep = self._choose(views)
        # Views give what they keep in turn, so by id; keep goes by score.
        ids, ranks = keep.sort()
        parts, start = [], 0
        for view, instances in zip(views, found, strict=True):
            stop = start + len(instances)
            mine = ids[(ids >= start) & (ids < stop)] - start
            # A view that gives nothing may lack fields that others have.
            if len(mine):
                parts.append(_unflip(instances[mine], view))
            start = stop
        if parts:
            merged = InstanceData.cat(parts)[ranks.argsort()]
            merged.scores = scores
        else:
            merged = next((one for one in found if 'masks' in one), found[0])
        views[0].pred_instances = merged
        return views[0]

    def _choose(self, views: Sequence[DetDataSample]) -> tuple[Tensor, Tensor]:
        """Return scores and ids, counted through all views, of the detections to keep."""
        scores = torch.cat([view.pred_instances.scores for view in views])
        keep = torch.arange(len(scores), device=scores.device)
        if len(views) > 1 and len(scores):
            boxes = torch.cat([_unflip_boxes(view.pred_instances.bboxes, view) for view in views])
            labels = torch.cat([view.pred_instances.labels for view in views])
            # Soft NMS changes scores.
            detections, keep = batched_nms(boxes, scores, labels, self.tta_cfg.nms)
            scores = detections[:, -1]
        if (limit := self.tta_cfg.max_per_img) > 0:
            scores, keep = scores[:limit], keep[:limit]
        return scores, keep


def _unflip(instances: InstanceData, view: DetDataSample) -> InstanceData:
    """Map instances of a view back into the original image."""
    if view.metainfo.get('flip', False):
        instances.bboxes = _unflip_boxes(instances.bboxes, view)
        if 'masks' in instances:
            axes = _FLIPPED_AXES[view.metainfo['flip_direction']]
            instances.masks = instances.masks.flip(axes)
    return instances


def _unflip_boxes(boxes: Tensor, view: DetDataSample) -> Tensor:
    # Views that nothing flipped may not mention flips.
    if not view.metainfo.get('flip', False):
        return boxes
    return bbox_flip(boxes, view.metainfo['ori_shape'], view.metainfo['flip_direction'])
