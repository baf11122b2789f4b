"""Checkpoints of every kind, made of the golden models' weights."""

from collections import OrderedDict
from functools import cache

import torch
from golden import golden_state as make_golden_state
from torch import Tensor

from mmvheat.checkpoint import fold_state_dict

CLASSES = ('ant', 'bee', 'cat', 'dog', 'eel', 'fox', 'gnu', 'hen', 'ibex', 'jay')

State = dict[str, Tensor]

golden_state = cache(make_golden_state)


def published(name: str = 'tiny_like') -> State:
    """A published classifier: it has no output norms but its own."""
    return {k: v for k, v in golden_state(name).items() if not k.startswith('outnorm')}


def mmpretrain(name: str = 'tiny_like') -> State:
    """The same as an mmpretrain classifier."""
    modules = {'classifier.0.': 'backbone.outnorm3.', 'classifier.3.': 'head.fc.'}
    return {
        modules[k[:13]] + k[13:] if k[:13] in modules else f'backbone.{k}': v
        for k, v in published(name).items()
    }


def backbone(name: str = 'tiny_like') -> State:
    """A backbone with all its output norms."""
    return {k: v for k, v in golden_state(name).items() if not k.startswith('classifier')}


@cache
def variant(**options: object) -> State:
    """A small backbone of a variant, see `mmvheat.models.VHeatArch`."""
    from mmvheat.models import VHeat

    return VHeat(dict(depths=(1, 2), dims=8, **options), img_size=64, out_indices=-1).state_dict()


def detector(name: str = 'tiny_like', classes: int = 10) -> State:
    """A Mask R-CNN, its neck and heads shrunken to a few tensors."""
    return {
        **{f'backbone.{key}': value for key, value in backbone(name).items()},
        'neck.fpn_convs.0.conv.weight': torch.ones(2, 2, 3, 3),
        'rpn_head.rpn_conv.weight': torch.ones(2, 2, 3, 3),
        'roi_head.bbox_head.fc_cls.weight': torch.ones(classes + 1, 2),
        'roi_head.mask_head.conv_logits.weight': torch.ones(classes, 2, 1, 1),
        'roi_head.mask_head.bn.running_mean': torch.ones(2),
        'roi_head.mask_head.bn.num_batches_tracked': torch.tensor(7),
    }


def segmentor(name: str = 'tiny_like', classes: int = 10) -> State:
    """An UperNet, its heads shrunken to a few tensors."""
    return {
        **{f'backbone.{key}': value for key, value in backbone(name).items()},
        'decode_head.psp_modules.0.1.conv.weight': torch.ones(2, 2, 1, 1),
        'decode_head.conv_seg.weight': torch.ones(classes, 2, 1, 1),
        'auxiliary_head.conv_seg.weight': torch.ones(classes, 2, 1, 1),
    }


def wrapped(state: State, before: str = 'module.', counter: str = '') -> State:
    """What a wrapper for training makes of a state dict."""
    counters = {counter: torch.tensor(9)} if counter else {}
    return {**{before + key: value for key, value in state.items()}, **counters}


def mmengine(state: State) -> dict:
    """What mmengine saves, with an EMA hook."""
    meta = {'epoch': 12, 'iter': 345, 'mmengine_version': '0.10.7', 'cfg': 'model = dict()'}
    return {
        'meta': {**meta, 'dataset_meta': {'classes': CLASSES, 'palette': [(1, 2, 3)] * 10}},
        'state_dict': OrderedDict(state),
        'ema_state_dict': OrderedDict(wrapped(state, counter='steps')),
        'message_hub': {'log_scalars': {}},
        'optimizer': {'state': {}, 'param_groups': []},
    }


@cache
def every_kind(name: str = 'tiny_like') -> dict[str, tuple[dict, str | None, str, str]]:
    """Checkpoints by what they are, each with the key to take, its origin and kind."""
    of_class = (published(name), mmpretrain(name))
    raw, ours = of_class
    mmcv = {'meta': {'mmcv_version': '1.7', 'CLASSES': CLASSES, 'epoch': 12, 'iter': 345}}
    folded = {'source': 'x.pth', 'folded_for': [64, 64]}
    classification = 'published classification checkpoint'
    return {
        'published': (
            {'model': raw, 'model_ema': raw, 'config': {'MODEL': {}}, 'epoch': 299, 'scaler': {}},
            None,
            f'{classification} with its config',
            'classifier',
        ),
        'published average': (
            {'model': raw, 'model_ema': raw},
            'model_ema',
            classification,
            'classifier',
        ),
        'bare': (raw, None, 'bare state dict', 'classifier'),
        'DDP': ({'model': wrapped(raw)}, None, classification, 'classifier'),
        'compiled': (
            {'net': wrapped(ours, '_orig_mod.')},
            'net',
            "state dict under 'net'",
            'classifier',
        ),
        'mmpretrain': (mmengine(ours), None, 'mmengine checkpoint', 'classifier'),
        'mmengine average': (mmengine(ours), 'ema_state_dict', 'mmengine checkpoint', 'classifier'),
        'detector': (mmengine(detector(name)), None, 'mmengine checkpoint', 'Mask R-CNN'),
        'mmcv detector': (
            {**mmcv, 'state_dict': detector(name)},
            None,
            'mmcv checkpoint',
            'Mask R-CNN',
        ),
        'mmcv segmentor': (
            {**mmcv, 'state_dict': segmentor(name)},
            None,
            'mmcv checkpoint',
            'UperNet',
        ),
        'backbone': (
            {'state_dict': backbone(name), 'meta': {}},
            None,
            "state dict under 'state_dict'",
            'backbone',
        ),
        'folded': (
            {'state_dict': fold_state_dict(raw, 64), 'meta': folded},
            None,
            'folded for inference by mmvheat',
            'classifier',
        ),
        'published folded': (
            {'model': folded_as_published(name)},
            None,
            classification,
            'classifier',
        ),
    }


def folded_as_published(name: str = 'tiny_like', size: int = 64) -> State:
    """The published inference form: its own names, decays in the place of what they follow from."""
    modules = {'backbone.outnorm3.': 'classifier.0.', 'head.fc.': 'classifier.3.', 'backbone.': ''}
    state = {}
    for key, value in fold_state_dict(published(name), size).items():
        start = next(start for start in modules if key.startswith(start))
        state[modules[start] + key[len(start) :]] = value
    return state
