"""A folded checkpoint computes what its source does, at its one size."""

import re

import pytest
import torch
from golden import MODELS, golden_arch, golden_state, golden_tensor

from mmvheat.checkpoint import fold_file, fold_state_dict, read_checkpoint
from mmvheat.errors import UserError
from mmvheat.models import VHeat

STATE = {k: v for k, v in golden_state('tiny_like').items() if not k.startswith('classifier')}


def build(name='tiny_like', size=64, **kwargs):
    return VHeat(arch=golden_arch(name), img_size=size, **kwargs).eval()


def bare(state):
    return {name.removeprefix('backbone.'): tensor for name, tensor in state.items()}


@pytest.mark.parametrize('size', [(64, 64), (77, 101), (32, 160)])
@pytest.mark.parametrize('name', MODELS)
def test_a_folded_checkpoint_computes_the_same(name, size):
    source = {k: v for k, v in golden_state(name).items() if not k.startswith('classifier')}
    model, folded = build(name), build(name, size, inference_form=True)
    model.load_state_dict(source)
    folded.load_state_dict(bare(fold_state_dict(source, size)), strict=True)
    images = golden_tensor(2, (1, 3, *size))
    with torch.no_grad():
        for ours, theirs in zip(folded(images), model(images), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_everything_else_is_kept_and_named_for_mmpretrain():
    source = golden_state('tiny_like')
    folded = fold_state_dict(source, 64)
    assert folded['head.fc.weight'] is not None
    gone = [name for name in folded if 'freq_embed' in name or 'to_k' in name]
    assert gone == []
    kept = {name: tensor for name, tensor in folded.items() if not name.endswith('k_exp')}
    decays = len(folded) - len(kept)
    assert decays == sum(golden_arch('tiny_like')['depths'])
    named = {k.removeprefix('backbone.'): v for k, v in kept.items() if 'outnorm3' not in k}
    for name, tensor in named.items():
        if not name.startswith('head'):
            assert torch.equal(tensor, source[name])


@pytest.mark.parametrize('name', ['out.pth', 'out.safetensors'])
def test_files(tmp_path, name):
    torch.save({'model': STATE}, tmp_path / 'in.pth')
    written = fold_file(tmp_path / 'in.pth', tmp_path / name, (96, 128))
    read = read_checkpoint(tmp_path / name)
    state = read.get('state_dict', read)
    assert state.keys() == written.keys()
    if name.endswith('pth'):
        assert read['meta']['folded_for'] == [96, 128]
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / name), prefix='backbone.')
    model = build(size=(96, 128), inference_form=True, init_cfg=init_cfg)
    model.init_weights()
    assert torch.equal(model.layers[0][0].op.k_exp, written['backbone.layers.0.0.op.k_exp'])


def test_the_names_of_the_classes_stay(tmp_path):
    meta = {'dataset_meta': {'classes': ('cat', 'dog')}, 'epoch': 3}
    torch.save({'state_dict': STATE, 'meta': meta}, tmp_path / 'in.pth')
    fold_file(tmp_path / 'in.pth', tmp_path / 'out.pth', 64)
    assert read_checkpoint(tmp_path / 'out.pth')['meta']['dataset_meta'] == meta['dataset_meta']


@pytest.mark.parametrize(
    'name, value',
    [
        ('layers.0.0.op.to_k.0.bias', None),
        ('layers.0.0.op.to_k.0.weight', None),
        ('layers.2.1.op.to_k.0.weight', torch.ones(5, 32)),
        ('layers.2.1.op.to_k.0.bias', torch.ones(5)),
        ('layers.2.1.op.to_k.0.weight', torch.ones(32, 32).half()),
        ('layers.2.1.op.to_k.0.bias', torch.ones(32).long()),
    ],
)
def test_what_the_decays_follow_from_must_be_whole(name, value):
    state = {**STATE, name: value}
    if value is None:
        del state[name]
    with pytest.raises(UserError, match=r'backbone\.layers\.\d\.\d\.op\.to_k\.0\.weight.*whole'):
        fold_state_dict(state, 64)


@pytest.mark.parametrize('meta', [None, [1], 'text'])
def test_odd_metadata(tmp_path, meta):
    torch.save({'state_dict': STATE, 'meta': meta}, tmp_path / 'in.pth')
    fold_file(tmp_path / 'in.pth', tmp_path / 'out.pth', 64)
    assert read_checkpoint(tmp_path / 'out.pth')['meta']['folded_for'] == [64, 64]


def test_bad_input_is_refused_and_nothing_written(tmp_path):
    source = tmp_path / 'in.pth'
    torch.save({'model': STATE}, source)
    before = source.read_bytes()
    with pytest.raises(ValueError, match='is the source'):
        fold_file(source, source, 64, force=True)
    with pytest.raises(ValueError, match='1 to 4096 pixels'):
        fold_file(source, tmp_path / 'out.pth', 0)
    torch.save({'state_dict': fold_state_dict(STATE, 64)}, tmp_path / 'folded.pth')
    with pytest.raises(ValueError, match='already folded for inference'):
        fold_file(tmp_path / 'folded.pth', tmp_path / 'out.pth', 64)
    assert source.read_bytes() == before
    assert not (tmp_path / 'out.pth').exists()


def test_a_checkpoint_of_the_other_form_or_size_is_refused():
    folded = bare(fold_state_dict(STATE, 64))
    with pytest.raises(ValueError, match=r'inference_form=True'):
        build().load_state_dict(folded)
    with pytest.raises(ValueError, match=r'tools/fold_for_inference\.py'):
        build(inference_form=True).load_state_dict(STATE)
    sides = re.escape('(16, 16, 8) in the checkpoint, (24, 24, 8)')
    with pytest.raises(ValueError, match=f'{sides}.*for images of 96 x 96'):
        build(size=96, inference_form=True).load_state_dict(folded)
