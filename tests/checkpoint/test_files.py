"""Any form becomes any other that can hold it, bit for bit, in both file formats."""

import os

import pytest
import torch
from checkpoint_kinds import (
    CLASSES,
    backbone,
    detector,
    every_kind,
    folded_as_published,
    mmengine,
    mmpretrain,
    published,
    segmentor,
    wrapped,
)
from golden import MODELS

from mmvheat.checkpoint import (
    change_file,
    change_form,
    convert_file,
    convert_state_dict,
    fold_file,
    fold_state_dict,
    read_checkpoint,
)
from mmvheat.errors import UserError

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SUFFIXES = ('.pth', '.safetensors')
# Sources in the form they have, and the forms they can go to and come back from.
ROUND_TRIPS = [
    (published, 'published', 'classification'),
    (mmpretrain, 'classification', 'published'),
    (published, 'published', 'published'),
    (mmpretrain, 'classification', 'classification'),
    (backbone, 'backbone', 'downstream'),
    (backbone, 'backbone', 'backbone'),
    (detector, 'downstream', 'downstream'),
    (segmentor, 'downstream', 'downstream'),
    (folded_as_published, 'published', 'classification'),
]


def weights(path):
    checkpoint = read_checkpoint(path)
    assert checkpoint.keys() in ({'model', 'meta'}, {'state_dict', 'meta'})
    return checkpoint.get('model') or checkpoint['state_dict']


def assert_same_bits(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        other = second[name]
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape), name
        bits = [t.reshape(-1).contiguous().view(torch.uint8) for t in (tensor, other)]
        assert torch.equal(*bits), name


def of_dtype(state, dtype):
    """Cast what is not counted, with a NaN and an infinity among the weights."""
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    name = next(k for k in state if k.endswith('mlp.fc1.weight'))
    state[name] = state[name].clone()
    state[name].view(-1)[:3] = torch.tensor([float('nan'), float('inf'), -0.0]).to(dtype)
    return state


@pytest.mark.parametrize('there', SUFFIXES)
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize(
    'make, form, other', ROUND_TRIPS, ids=[f'{m.__name__}-{o}' for m, _, o in ROUND_TRIPS]
)
def test_there_and_back(tmp_path, make, form, other, dtype, there):
    state = of_dtype(make(), dtype)
    torch.save({'state_dict': state}, tmp_path / 'in.pth')
    change_file(tmp_path / 'in.pth', tmp_path / f'there{there}', other)
    for back in SUFFIXES:
        change_file(tmp_path / f'there{there}', tmp_path / f'back{back}', form)
        assert_same_bits(weights(tmp_path / f'back{back}'), state)


@pytest.mark.parametrize('name', MODELS)
def test_published_and_mmpretrain_name_each_other_s_classifier(name):
    assert_same_bits(change_form(published(name), 'classification')[0], mmpretrain(name))
    assert_same_bits(change_form(mmpretrain(name), 'published')[0], published(name))


def test_backbone_alone():
    plain, report = change_form(detector(), 'backbone')
    assert_same_bits(plain, backbone())
    assert set(report.dropped.values()) == {'not of the backbone'}
    # A classifier's norm is its backbone's last one, as mmpretrain has it.
    for make in (published, mmpretrain):
        plain, _ = change_form(make(), 'backbone')
        kept = {k: v for k, v in published().items() if not k.startswith('classifier')}
        assert plain.keys() == kept.keys() | {'outnorm3.weight', 'outnorm3.bias'}
        assert torch.equal(plain['outnorm3.bias'], published()['classifier.0.bias'])
    # One that has both keeps its own.
    both, _ = change_form({**published(), **backbone()}, 'backbone')
    assert_same_bits(both, backbone())


@pytest.mark.parametrize('mode', ['bicubic', 'pad', 'frequency'])
def test_sizes(mode):
    resized, report = change_form(published(), 'published', 96, mode=mode)
    expected, _ = convert_state_dict(published(), 64, 96, mode, 'classification')
    assert_same_bits(change_form(resized, 'classification')[0], expected)
    assert list(report.resized) == [f'freq_embed.{stage}' for stage in range(4)]


def test_downstream_is_what_interpolate4downstream_makes(tmp_path):
    torch.save(mmengine(mmpretrain()), tmp_path / 'in.pth')
    convert_file(tmp_path / 'in.pth', tmp_path / 'a.pth', 64, 128)
    change_file(tmp_path / 'in.pth', tmp_path / 'b.pth', 'downstream', 128)
    assert_same_bits(weights(tmp_path / 'a.pth'), weights(tmp_path / 'b.pth'))


@pytest.mark.parametrize(
    'before',
    ['module.', '_orig_mod.', 'module._orig_mod.', '_orig_mod.module.', '_fsdp_wrapped_module.'],
)
@pytest.mark.parametrize('make', [published, mmpretrain, detector])
def test_wrappers_go(make, before):
    form = 'downstream' if make is detector else 'classification'
    expected, _ = change_form(make(), form)
    state = wrapped(make(), before, 'steps' if before.startswith('module') else '')
    converted, report = change_form(state, form)
    assert_same_bits(converted, expected)
    assert report.names.keys() | report.dropped.keys() == state.keys()
    assert set(report.dropped) <= {'steps'}
    assert_same_bits(fold_state_dict(state, 64), fold_state_dict(make(), 64))


def test_key_chooses_the_average(tmp_path):
    checkpoint = mmengine(mmpretrain())
    average = {k: v + 1 for k, v in published().items()}
    checkpoint['ema_state_dict'] = wrapped(
        change_form(average, 'classification')[0], counter='steps'
    )
    torch.save(checkpoint, tmp_path / 'in.pth')
    report = change_file(
        tmp_path / 'in.pth', tmp_path / 'out.pth', 'published', key='ema_state_dict'
    )
    assert_same_bits(weights(tmp_path / 'out.pth'), average)
    assert 'steps' in report.dropped and 'state_dict' in report.left_out


@pytest.mark.parametrize('suffix', SUFFIXES)
@pytest.mark.parametrize('make, form', [(mmpretrain, 'published'), (detector, 'downstream')])
def test_class_names_stay_with_the_head(tmp_path, make, form, suffix):
    torch.save(mmengine(make()), tmp_path / 'in.pth')
    change_file(tmp_path / 'in.pth', tmp_path / f'out{suffix}', form)
    change_file(tmp_path / f'out{suffix}', tmp_path / 'back.pth', 'backbone')
    kept = read_checkpoint(tmp_path / f'out{suffix}')['meta']['dataset_meta']
    assert tuple(kept['classes']) == CLASSES and len(kept['palette']) == 10
    assert 'dataset_meta' not in read_checkpoint(tmp_path / 'back.pth')['meta']


@pytest.mark.parametrize('meta', [None, [1], 'text', {'dataset_meta': None}, 'missing'])
def test_odd_metadata(tmp_path, meta):
    checkpoint = {'state_dict': mmpretrain(), 'meta': meta}
    if meta == 'missing':
        del checkpoint['meta']
    torch.save(checkpoint, tmp_path / 'in.pth')
    for suffix in SUFFIXES:
        change_file(tmp_path / 'in.pth', tmp_path / f'a{suffix}', 'published')
        convert_file(tmp_path / 'in.pth', tmp_path / f'b{suffix}', 64, 64)
        fold_file(tmp_path / 'in.pth', tmp_path / f'c{suffix}', 64)
    assert_same_bits(weights(tmp_path / 'a.pth'), published())


def test_metadata_that_json_cannot_say_stay_behind(tmp_path):
    meta = {'dataset_meta': {'classes': CLASSES, 'at': torch.ones(1)}, 'CLASSES': CLASSES}
    torch.save({'state_dict': detector(), 'meta': meta}, tmp_path / 'in.pth')
    change_file(tmp_path / 'in.pth', tmp_path / 'out.safetensors', 'downstream')
    written = read_checkpoint(tmp_path / 'out.safetensors')['meta']
    assert 'dataset_meta' not in written and 'bee' in written['CLASSES']


FOLDED = {'state_dict': fold_state_dict(published(), 64)}


@pytest.mark.parametrize(
    'checkpoint, form, options, says',
    [
        (FOLDED, 'downstream', {}, 'already folded for inference'),
        (FOLDED, 'classification', {'target_size': 96}, 'already folded for inference'),
        (FOLDED, 'published', {'source_size': 64}, 'already folded for inference'),
        ({'model': backbone()}, 'published', {}, 'no classifier .*none can be made'),
        ({'model': backbone()}, 'classification', {}, 'no classifier .*none can be made'),
        ({'model': detector()}, 'published', {}, 'no classifier'),
        (
            {'model': {**mmpretrain(), 'neck.w': torch.ones(1)}},
            'published',
            {},
            'neck.w has no place',
        ),
        ({'model': published()}, 'downstream', {'key': 'ema'}, "'ema' is not in it"),
        ({'model': published()}, 'downstream', {'source_size': 96}, 'contradicts freq_embed.0'),
        ({'model': published()}, 'downstream', {'target_size': 0}, '1 to 4096 pixels'),
        ({'model': published()}, 'published', {'target_size': 32, 'mode': 'pad'}, 'cannot shrink'),
        ({'model': published()}, 'published', {'mode': 'nearest'}, "got 'nearest'"),
        ({'model': published()}, 'detector', {}, "form is one of .*got 'detector'"),
        (
            {'model': {**published(), **wrapped(published())}},
            'published',
            {},
            "several vHeat backbones.*'module.'",
        ),
        (
            {'model': {**published(), **wrapped(published(), '_orig_mod.')}},
            'published',
            {},
            '2 tensors',
        ),
    ],
)
def test_what_cannot_be_done_is_one_line_and_nothing_written(
    tmp_path, checkpoint, form, options, says
):
    source = tmp_path / 'in.pth'
    torch.save(checkpoint, source)
    before = source.read_bytes()
    for target in (tmp_path / 'out.pth', tmp_path / 'out.safetensors', source):
        with pytest.raises(UserError, match=says) as raised:
            change_file(source, target, form, force=True, **options)
        assert '\n' not in str(raised.value)
    assert os.listdir(tmp_path) == ['in.pth'] and source.read_bytes() == before


def test_targets_are_checked_before_the_source_is_read(tmp_path):
    (tmp_path / 'old.pth').write_bytes(b'old')
    with pytest.raises(UserError, match='exists: give --force'):
        change_file(tmp_path / 'none.pth', tmp_path / 'old.pth', 'published')
    with pytest.raises(ValueError, match='none.pth does not exist'):
        change_file(tmp_path / 'none.pth', tmp_path / 'old.pth', 'published', force=True)
    assert (tmp_path / 'old.pth').read_bytes() == b'old'


@pytest.mark.filterwarnings('ignore:ComplexHalf')
def test_what_safetensors_cannot_hold(tmp_path):
    state = {**detector(), 'neck.w': torch.ones(2, dtype=torch.complex32)}
    torch.save({'state_dict': state}, tmp_path / 'in.pth')
    with pytest.raises(UserError, match='cannot hold these tensors .*complex32.*write a .pth'):
        change_file(tmp_path / 'in.pth', tmp_path / 'out.safetensors', 'downstream')
    change_file(tmp_path / 'in.pth', tmp_path / 'out.pth', 'downstream')
    assert sorted(os.listdir(tmp_path)) == ['in.pth', 'out.pth']


@pytest.mark.parametrize('kind', every_kind())
def test_every_kind_becomes_a_backbone(tmp_path, kind):
    checkpoint, key, _, _ = every_kind()[kind]
    torch.save(checkpoint, tmp_path / 'in.pth')
    change_file(tmp_path / 'in.pth', tmp_path / 'out.pth', 'backbone', key=key)
    state = weights(tmp_path / 'out.pth')
    original = fold_state_dict(backbone(), 64) if 'folded' in kind else backbone()
    original = {name.removeprefix('backbone.'): tensor for name, tensor in original.items()}
    norms = {'outnorm3.weight', 'outnorm3.bias'}
    assert_same_bits(
        {name: tensor for name, tensor in state.items() if not name.startswith('outnorm')},
        {name: tensor for name, tensor in original.items() if not name.startswith('outnorm')},
    )
    assert norms <= state.keys()
