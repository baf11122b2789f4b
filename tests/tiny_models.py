"""Small models of the three libraries with weights as after a training."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmvheat.visualization import find_backbone

__all__ = ['CLASSES', 'make_tiny_model']

CLASSES = {
    'classification': ('a', 'b', 'c'),
    'detection': ('square', 'disc'),
    'segmentation': ('back', 'square', 'disc'),
}
_PALETTE = [[0, 0, 0], [250, 20, 0], [0, 250, 0]]


def make_tiny_model(config: Path, classes: tuple[str, ...], checkpoint: Path) -> nn.Module:
    """Build the model of a config, give it weights that conduct, and save them."""
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model).eval()
        model.init_weights()
    # As after a long training: heat spreads, and it counts.
    for stage in find_backbone(model).layers:
        for operator in (block.op for block in stage.blocks()):
            nn.init.uniform_(operator.to_k[0].bias, 0.1, 2)
            nn.init.normal_(operator.linear.weight, std=0.5)
            nn.init.normal_(operator.out_linear.weight, std=0.5)
    meta = dict(dataset_meta=dict(classes=classes, palette=_PALETTE[: len(classes)]))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
    return model
