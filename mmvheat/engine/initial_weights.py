"""Check the weights that a config's backbone starts from, before anything is built."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict

from mmvheat.checkpoint.fit import compare_weights
from mmvheat.errors import UserError
from mmvheat.registry import MODELS

from .checkpoint_check import read_weights
from .weights_fit import describe_arch

__all__ = ['check_initial_weights']

_BACKBONES = ('VHeat', 'MMDET_VHEAT', 'MMSEG_VHEAT')


def check_initial_weights(node: Any, path: Path) -> None:
    """Check ``init_cfg=dict(type='Pretrained', ...)`` and the published code's ``pretrained=``.

    Args:
        node: The config's model, or a part of it.
        path: The config's path, for the message.

    Raises:
        UserError: If a file does not exist, or is not for the vHeat that names it.
    """
    if isinstance(node, dict):
        kind = str(node.get('type')).rpartition('.')[2]
        published = kind in _BACKBONES[1:]
        init_cfg = node.get('init_cfg')
        checkpoint = init_cfg.get('checkpoint') if isinstance(init_cfg, dict) else None
        prefix = init_cfg.get('prefix') or '' if checkpoint else ''
        if published:
            # They ignore the init_cfg that they inherit from a Swin Transformer.
            checkpoint, prefix = node.get('pretrained'), ''
        if isinstance(checkpoint, str) and checkpoint:
            option = 'pretrained' if published else 'init_cfg.checkpoint'
            if '://' not in checkpoint and not Path(checkpoint).expanduser().is_file():
                raise UserError(
                    f'{path}: the pretrained weights {checkpoint} do not exist: make them with '
                    f'interpolate4downstream.py, or set another {option}'
                )
            if kind == 'VHeat':
                _check_backbone(node, checkpoint, prefix)
    children = node.values() if isinstance(node, dict) else node
    if isinstance(node, (dict, list, tuple)):
        for child in children:
            check_initial_weights(child, path)


def _check_backbone(node: Mapping, checkpoint: str, prefix: str) -> None:
    """Build the backbone without memory and hold the file to it, output norms aside."""
    weights = read_weights(checkpoint)
    prefix = prefix and prefix.rstrip('.') + '.'
    given = {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }
    config = {key: value for key, value in ConfigDict(node).items() if key != 'init_cfg'}
    with torch.device('meta'):
        expected = MODELS.build(dict(config, type='mmvheat.VHeat')).state_dict()
    fit = compare_weights(expected, given, ('outnorm',))
    if fit.keys():
        has, wants = describe_arch(given), describe_arch(expected)
        sides = f'the file has {has or "no vHeat"}, the config wants {wants}: ' * (has != wants)
        raise UserError(
            f'init_cfg.checkpoint={checkpoint} (prefix={prefix!r}) does not fit the backbone: '
            f'{sides}{fit.summary()}'
        )
