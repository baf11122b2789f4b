import pytest
import torch
from golden import golden_state

from mmvheat.checkpoint import find_state_dict
from mmvheat.checkpoint.formats import backbone_prefix, mmpretrain_name

W = {'w': torch.ones(1)}
V = {'w': torch.zeros(1)}


@pytest.mark.parametrize(
    'checkpoint, key, left_out',
    [
        ({'model': W, 'model_ema': V, 'epoch': 3}, 'model', ('model_ema', 'epoch')),
        ({'model_ema': V, 'model': W}, 'model', ('model_ema',)),
        ({'ema_state_dict': V, 'state_dict': W}, 'state_dict', ('ema_state_dict',)),
        ({'model_ema': W, 'optimizer': {}}, 'model_ema', ('optimizer',)),
        ({'ema_state_dict': W}, 'ema_state_dict', ()),
        ({'model': {}, 'state_dict': W}, 'state_dict', ('model',)),
        (W, '', ()),
        ({**W, 'epoch': 3}, '', ('epoch',)),
    ],
)
def test_default_order(checkpoint, key, left_out):
    found = find_state_dict(checkpoint)
    assert (found.key, found.left_out) == (key, left_out)
    assert found.tensors == W


def test_key_chooses():
    found = find_state_dict({'model': W, 'model_ema': V}, key='model_ema')
    assert found.tensors is not None and torch.equal(found.tensors['w'], V['w'])
    assert found.left_out == ('model',)
    found = find_state_dict({'teacher': {**W, 'note': 'text'}}, key='teacher')
    assert found.tensors == W


@pytest.mark.parametrize(
    'checkpoint, key, says',
    [
        ({'model': W, 'model_ema': V}, 'ema', "'ema' is not in it; .*--key: model, model_ema"),
        ({'model': W, 'epoch': 3}, 'epoch', r"'epoch' holds no state dict \(a int\).*--key: model"),
        (W, 'model', "'model' is not in it; .*give no key"),
        ({'weights': W}, None, 'found: weights.*--key: weights'),
        ({'epoch': 3}, None, 'found: epoch.*give a checkpoint of a vHeat model'),
        ({}, None, 'found: nothing'),
    ],
)
def test_no_state_dict(checkpoint, key, says):
    with pytest.raises(ValueError, match=says):
        find_state_dict(checkpoint, key)


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'module.', 'module.backbone.', 'a.b.'])
def test_prefix(prefix):
    names = [prefix + name for name in golden_state('tiny_like')]
    assert backbone_prefix([*names, 'steps']) == prefix


def test_other_models_are_refused():
    names = list(golden_state('tiny_like'))
    operators = [name for name in names if '.op.' in name]
    for others, says in {
        ('conv1.weight', 'fc.weight'): 'another model than vHeat.*first is conv1.weight',
        ('freq_embed.0', 'layers.0.0.attn.weight'): 'another model than vHeat',
        (): 'another model than vHeat',
        tuple(operators): 'without frequency embeddings.*training checkpoint',
        (*operators, 'layers.0.0.op.k_exp'): r'folded for inference \(layers.0.0.op.k_exp\)',
        (*names, 'layers.0.0.op.k_exp'): 'folded for inference',
        (*names, *(f'teacher.{name}' for name in names)): "several vHeat backbones.*'teacher.'",
    }.items():
        with pytest.raises(ValueError, match=says):
            backbone_prefix(others)


@pytest.mark.parametrize(
    'name, prefix, new',
    [
        ('freq_embed.0', '', 'backbone.freq_embed.0'),
        ('module.layers.0.2.0.weight', 'module.', 'backbone.layers.0.2.0.weight'),
        ('classifier.0.weight', '', 'backbone.outnorm3.weight'),
        ('module.classifier.3.bias', 'module.', 'head.fc.bias'),
        ('backbone.outnorm3.bias', 'backbone.', 'backbone.outnorm3.bias'),
        ('module.backbone.freq_embed.1', 'module.backbone.', 'backbone.freq_embed.1'),
        ('module.head.fc.bias', 'module.backbone.', 'head.fc.bias'),
        ('neck.convs.0.weight', 'backbone.', 'neck.convs.0.weight'),
        ('steps', 'module.backbone.', None),
    ],
)
def test_names(name, prefix, new):
    assert mmpretrain_name(name, prefix, last_stage=3) == new


def test_unknown_classifier_layer():
    with pytest.raises(ValueError, match='classifier.5.weight: expected classifier.0'):
        mmpretrain_name('classifier.5.weight', '', last_stage=3)
