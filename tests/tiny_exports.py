"""Small trained-like models of the libraries, and how to wrap them for an export."""

from pathlib import Path
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from tiny_models import CLASSES, make_tiny_model
from torch import nn

from mmvheat.export.build import InputFacts, exported_module
from mmvheat.export.wrappers import ExportedModule
from mmvheat.visualization import find_backbone

__all__ = ['CONFIGS', 'make_segmentor', 'make_tiny_classifier', 'wrap']

CONFIGS = Path(__file__).parent / 'tools' / 'configs'
MEAN, STD = [100.0, 110.0, 120.0], [50.0, 55.0, 60.0]
_HEADS: dict[str, dict[str, Any]] = {
    'uper': dict(type='UPerHead', pool_scales=(1, 2, 3, 6)),
    'fpn': dict(type='FPNHead', feature_strides=[4, 8, 16, 32]),
    'binary': dict(type='UPerHead', pool_scales=(1,), num_classes=2, out_channels=1, threshold=0.4),
}


def make_tiny_classifier(folder: Path) -> nn.Module:
    """Build mmpretrain's classifier of the tiny config."""
    name = 'classification'
    return make_tiny_model(CONFIGS / f'{name}.py', CLASSES[name], folder / f'{name}.pth')


def make_segmentor(head: str, bgr: bool = False) -> nn.Module:
    """Build mmseg's UperNet or Semantic FPN around a small vHeat, with weights that matter.

    Args:
        head: ``'uper'``, ``'fpn'``, or ``'binary'`` for a UperNet with one logit.
        bgr: Whether it is trained with the channels b, g, r.
    """
    dims = [8, 16, 32, 64]
    options = dict(in_channels=dims, in_index=[0, 1, 2, 3], channels=8, num_classes=3)
    norm = dict(norm_cfg=dict(type='BN'), align_corners=False, dropout_ratio=0.1)
    config = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor', mean=MEAN, std=STD, bgr_to_rgb=not bgr, size=(64, 64)
        ),
        backbone=dict(type='mmvheat.VHeat', arch=dict(depths=[1] * 4, dims=8), img_size=64),
        neck=dict(type='FPN', in_channels=dims, out_channels=8, num_outs=4)
        if head == 'fpn'
        else None,
        decode_head={**options, **norm, **_HEADS[head]},
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    if head == 'fpn':
        config['decode_head']['in_channels'] = [8] * 4
    import mmseg.models  # noqa: F401  registers them

    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(ConfigDict(config)).eval()
    for stage in find_backbone(model).layers:
        for operator in (block.op for block in stage.blocks()):
            nn.init.uniform_(operator.to_k[0].bias, 0.1, 2)
            nn.init.normal_(operator.linear.weight, std=0.5)
            nn.init.normal_(operator.out_linear.weight, std=0.5)
    nn.init.normal_(model.decode_head.conv_seg.weight, std=1)
    return model


def wrap(model: nn.Module, **options: Any) -> ExportedModule:
    """Wrap a model as ``tools/export.py`` does."""
    module, _ = exported_module(model, InputFacts(model.data_preprocessor), **options)
    return module
