import pytest
import torch

from mmvheat.checkpoint import find_state_dict
from mmvheat.checkpoint.formats import class_metadata, metadata
from mmvheat.errors import UserError

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


def test_what_is_no_tensor_is_named():
    found = find_state_dict({'model': {**W, 'note': 'text', 3: 4}, 'epoch': 1})
    assert found.tensors == W
    assert found.left_out == ('epoch', 'model.note', 'model.3')


@pytest.mark.parametrize(
    'name, tensor, says',
    [
        (5, torch.ones(1), "called '5', a int"),
        (('a',), torch.ones(1), 'a tuple'),
        ('w', torch.ones(2, device='meta'), 'w is on the meta device'),
        ('w', torch.eye(3).to_sparse(), 'w is stored as torch.sparse_coo'),
        ('w', torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8), 'w is quantised'),
        ('w', torch.ones(1).expand(10**6, 10**6), 'values that are repeated, not stored'),
        ('w' * 10**6, torch.eye(3).to_sparse(), r'w\.\.\. is stored as'),
        ('a\nb', torch.eye(3).to_sparse(), r'a\\nb is stored as'),
    ],
)
def test_names_and_tensors_that_no_module_has(name, tensor, says):
    with pytest.raises(UserError, match=says) as raised:
        find_state_dict({'model': {name: tensor}})
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize('meta', [None, [1], 'text', 3, {}, {'dataset_meta': None}])
def test_odd_metadata(meta):
    for checkpoint in ({**W, 'meta': meta}, {'state_dict': W, 'meta': meta}, {'state_dict': W}):
        assert class_metadata(checkpoint) == {}
        assert isinstance(metadata(checkpoint), dict)


def test_class_metadata():
    meta = {'dataset_meta': {'classes': ('a', 'b')}, 'CLASSES': ('a',), 'epoch': 3}
    assert class_metadata({'state_dict': W, 'meta': meta}) == {
        'dataset_meta': {'classes': ('a', 'b')},
        'CLASSES': ('a',),
    }
