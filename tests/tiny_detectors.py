"""Small detectors of mmdet on a vHeat, with random weights that detect many things."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

__all__ = ['make_tiny_detector', 'predict', 'tiny_detector_config']

CONFIGS = Path(__file__).parents[1] / 'configs' / 'detection'
DIMS = 8
WIDTH = 16
CLASSES = 5
# Of what the last layers give: mean where an image shows nothing, and deviation elsewhere.
SPREADS = {
    'rpn_cls': (0, 2),
    'rpn_reg': (0, 0.3),
    'fc_cls': (torch.tensor([0.0] * CLASSES + [3]), 2),
    'fc_reg': (0, 1.5),
    'conv_logits': (0, 2),
    'retina_cls': (-4, 2),
    'retina_reg': (0, 0.3),
}


def tiny_detector_config(name: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Shrink the model of a config of ``configs/detection``: 20 detections an image at most.

    Args:
        name: Name of the file without its suffix.
        changes: Entries of the model to change after that, with dots.
    """
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    model = cfg.model
    dims = [DIMS * 2**stage for stage in model.backbone.get('out_indices', range(4))]
    model.backbone.update(arch=dict(depths=(1, 1, 1, 1), dims=DIMS), init_cfg=None)
    model.neck.update(in_channels=dims, out_channels=WIDTH)
    if 'roi_head' in model:
        roi_head = model.roi_head
        model.rpn_head.update(in_channels=WIDTH, feat_channels=WIDTH)
        roi_head.bbox_roi_extractor.out_channels = WIDTH
        roi_head.bbox_head.update(in_channels=WIDTH, fc_out_channels=WIDTH, num_classes=CLASSES)
        if 'mask_head' in roi_head:
            roi_head.mask_roi_extractor.out_channels = WIDTH
            roi_head.mask_head.update(
                in_channels=WIDTH, conv_out_channels=WIDTH, num_classes=CLASSES, num_convs=1
            )
        model.test_cfg.rpn.update(nms_pre=150, max_per_img=60)
        model.test_cfg.rcnn.update(max_per_img=20)
    else:
        model.bbox_head.update(
            in_channels=WIDTH, feat_channels=WIDTH, num_classes=CLASSES, stacked_convs=1
        )
        model.test_cfg.update(nms_pre=150, max_per_img=20)
    cfg.merge_from_dict({f'model.{key}': value for key, value in (changes or {}).items()})
    return cfg.model


def make_tiny_detector(name: str, changes: Mapping[str, Any] | None = None) -> nn.Module:
    """Build such a detector in eval mode. It finds nothing in an image of zeros."""
    cfg = tiny_detector_config(name, changes)
    with DefaultScope.overwrite_default_scope('mmdet'):
        detector = MODELS.build(cfg).eval().requires_grad_(False)
    for part, layer in detector.named_modules():
        spread = SPREADS.get(part.rpartition('.')[2])
        if spread:
            _spread(layer, *spread)
    noise = torch.randn(3, 3, 75, 101)
    noise[0] = 0
    predict(detector, noise)
    test_cfg = (detector.roi_head if hasattr(detector, 'roi_head') else detector.bbox_head).test_cfg
    dull = predict(detector, noise[:1])[0].scores
    test_cfg.score_thr = float(dull.max()) + 1e-3 if len(dull) else test_cfg.score_thr
    return detector


def _spread(layer: nn.Module, mean: float | Tensor, std: float) -> None:
    """Scale a layer when it first runs, so that its outputs differ from place to place."""

    def scale(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        hook.remove()
        rest = [axis for axis in range(output.ndim) if axis != 1]
        means = output[: len(output) // 3].mean(rest)
        deviation = output.movedim(1, 0).flatten(1) - means[:, None]
        factor = std / deviation.square().mean(1).sqrt()
        layer.weight.mul_(factor.view(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias.copy_((layer.bias - means) * factor + mean)
        return layer(*inputs)

    hook = layer.register_forward_hook(scale)


def predict(detector: nn.Module, image: Tensor) -> list[Any]:
    """mmdet's own instances for images (N, 3, H, W), in pixels of the input."""
    from mmdet.structures import DetDataSample

    size = tuple(image.shape[2:])
    shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), size)
    samples = [DetDataSample(metainfo=dict(shapes, scale_factor=(1.0, 1.0))) for _ in image]
    with torch.no_grad():
        return [s.pred_instances for s in detector.predict(image, samples, rescale=False)]
