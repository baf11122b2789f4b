"""Every load of a vHeat says in one line how it fits, whoever loads it."""

import copy
import logging

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import load_checkpoint, load_state_dict
from torch import nn

from mmvheat.errors import UserError
from mmvheat.models import MMDET_VHEAT, VHeat

ARCH = dict(depths=[1, 1], dims=4)
LINE = 'keys matched, '


def build(img_size=32, **kwargs):
    return VHeat(**{**dict(arch=ARCH, img_size=img_size, out_indices=(0, 1)), **kwargs})


class _List(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def said():
    """The lines that count, so far."""
    kept = _List()
    MMLogger.get_current_instance().addHandler(kept)
    return lambda: [record for record in kept.records if LINE in record.getMessage()]


def _mmengine_file(model, state, path):
    torch.save({'state_dict': state, 'meta': {}}, path)
    load_checkpoint(model, str(path))


def _init_cfg(model, state, path):
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in state.items()}}, path)
    model.init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    model.init_weights()


LOADS = {
    'torch': lambda model, state, _: model.load_state_dict(state, strict=False),
    'mmengine': lambda model, state, _: load_state_dict(model, state),
    'mmengine, of a file': _mmengine_file,
    'init_cfg': _init_cfg,
}


@pytest.mark.parametrize('load', LOADS)
def test_all_is_counted(load, said, tmp_path):
    state = build(img_size=64).state_dict()
    total = len(state)
    del state['outnorm0.bias'], state['outnorm1.bias']
    state['head.fc.weight'] = torch.zeros(2, 2)
    LOADS[load](build(), state, tmp_path / 'x.pth')
    (record,) = said()
    assert record.getMessage() == (
        f'Load VHeat: {total - 2} keys matched, 2 of them resized '
        '(freq_embed.0 16x16 -> 8x8, freq_embed.1 8x8 -> 4x4), '
        '2 missing (outnorm0.bias, outnorm1.bias), 1 unexpected (head.fc.weight)'
    )
    assert record.levelno == logging.INFO


def test_another_shape_is_a_warning(said):
    state = build().state_dict()
    state['outnorm0.bias'] = torch.zeros(5)
    load_state_dict(build(), state)
    (record,) = said()
    assert '1 of another shape (outnorm0.bias (5,), not (4,))' in record.getMessage()
    assert record.levelno == logging.WARNING


@pytest.mark.parametrize(
    'wrap',
    [
        lambda backbone: nn.ModuleDict(dict(backbone=backbone)),
        lambda backbone: ExponentialMovingAverage(nn.ModuleDict(dict(backbone=backbone))),
    ],
)
def test_a_backbone_inside_a_model(wrap, said):
    model = wrap(build())
    state = copy.deepcopy(model.state_dict())
    model.load_state_dict(state)
    (record,) = said()
    assert f'backbone.VHeat: {len(build().state_dict())} keys matched, 0 of' in record.getMessage()


def test_a_published_backbone(said, tmp_path):
    arguments = dict(depths=[1, 1, 1, 1], dims=4, post_norm=False, img_size=32)
    source = MMDET_VHEAT(**arguments)
    torch.save({'model': source.state_dict()}, tmp_path / 'vheat.pth')
    model = MMDET_VHEAT(**arguments, pretrained=str(tmp_path / 'vheat.pth'))
    model.init_weights()
    (record,) = said()
    assert f'Load MMDET_VHEAT: {len(source.state_dict())} keys matched' in record.getMessage()


@pytest.mark.parametrize('load', LOADS)
@pytest.mark.parametrize(
    ('change', 'named'),
    [
        (lambda state: {f'module.model.{k}': v for k, v in state.items()}, 'model.'),
        (lambda state: {k: torch.zeros(7, 7, 7) for k in state}, r'of another shape \('),
        (lambda state: {'conv1.weight': torch.zeros(1), 'layer1.0.bias': torch.zeros(1)}, 'conv1'),
    ],
)
def test_weights_of_which_none_matches_are_refused(load, change, named, said, tmp_path):
    """mmengine only warns: training would start from random weights."""
    model = build()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=named) as raised:
        LOADS[load](model, change(build().state_dict()), tmp_path / 'x.pth')
    assert 'none of the weights matches the backbone VHeat' in str(raised.value)
    assert '\n' not in str(raised.value) and said() == []
    if load != 'init_cfg':
        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_a_head_alone_may_be_loaded(said):
    model = nn.ModuleDict(dict(backbone=build(), head=nn.Linear(2, 2)))
    load_state_dict(model, {'head.weight': torch.zeros(2, 2), 'head.bias': torch.zeros(2)})
    assert torch.equal(model['head'].weight, torch.zeros(2, 2))
    (record,) = said()
    assert 'backbone.VHeat: 0 keys matched' in record.getMessage()
