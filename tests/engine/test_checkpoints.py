"""Writing, finding and checking checkpoints."""

from collections import deque
from types import SimpleNamespace

import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.model import BaseTTAModel
from mmengine.runner import Runner as MMEngineRunner
from torch import nn

from mmvheat.engine import SafeCheckpointHook, weights_fit
from mmvheat.engine.checkpoint_check import find_resumable, read_weights
from mmvheat.engine.runner import Runner
from mmvheat.engine.weights_fit import check_start, check_weights_fit, compare_weights
from mmvheat.errors import UserError
from mmvheat.models import VHeat


class _KilledError(Exception):
    pass


def _save(folder, name, **content):
    meta = dict(epoch=0, iter=int(name.split('_')[1].split('.')[0]))
    checkpoint = dict(state_dict={}, meta=meta, message_hub={}, optimizer={})
    torch.save({**checkpoint, **content}, folder / name)


def test_a_kill_while_saving_leaves_the_old_file(tmp_path, monkeypatch):
    def killed_half_way(self, out_dir, filename, *_, **__):
        (tmp_path / filename).write_text('half')
        raise _KilledError

    monkeypatch.setattr(MMEngineRunner, 'save_checkpoint', killed_half_way)
    (tmp_path / 'iter_4.pth').write_text('whole')
    with pytest.raises(_KilledError):
        Runner.save_checkpoint(object.__new__(Runner), str(tmp_path), 'iter_4.pth')
    assert (tmp_path / 'iter_4.pth').read_text() == 'whole'


@pytest.mark.parametrize(('hook_type', 'survives'), [(SafeCheckpointHook, 1), (CheckpointHook, 0)])
def test_a_kill_while_saving_leaves_the_last_checkpoint(tmp_path, hook_type, survives):
    def killed(*_, **__):
        raise _KilledError

    hook = hook_type(interval=1, by_epoch=False, max_keep_ckpts=1)
    hook.out_dir, hook.file_backend = str(tmp_path), LocalBackend()
    hook.file_client_args, hook.keep_ckpt_ids = None, deque([1], 1)
    runner = SimpleNamespace(
        save_checkpoint=killed,
        message_hub=SimpleNamespace(update_info=lambda *_: None),
        work_dir=str(tmp_path),
    )
    _save(tmp_path, 'iter_1.pth')
    with pytest.raises(_KilledError):
        hook._save_checkpoint_with_step(runner, 2, {})
    assert len(list(tmp_path.glob('*.pth'))) == survives

    runner.save_checkpoint = lambda folder, name, *_, **__: _save(tmp_path, name)
    hook.keep_ckpt_ids = deque([1], 1)
    hook._save_checkpoint_with_step(runner, 2, {})
    assert [path.name for path in tmp_path.glob('*.pth')] == ['iter_2.pth']


@pytest.mark.parametrize(
    ('pointer', 'found'),
    [
        ('{}/iter_8.pth', 'iter_8.pth'),
        ('{}/iter_4.pth', 'iter_12.pth'),  # removed by max_keep_ckpts
        ('{}/iter_16.pth', 'iter_12.pth'),  # truncated by the kill
        ('', 'iter_12.pth'),
        (None, 'iter_12.pth'),
    ],
)
def test_find_resumable_takes_the_newest_whole_checkpoint(tmp_path, pointer, found):
    for name in ('iter_8.pth', 'iter_12.pth', 'iter_16.pth'):
        _save(tmp_path, name)
    _save(tmp_path, 'best_20.pth')
    whole = (tmp_path / 'iter_16.pth').read_bytes()
    (tmp_path / 'iter_16.pth').write_bytes(whole[: len(whole) // 2])
    if pointer is not None:
        (tmp_path / 'last_checkpoint').write_text(pointer.format(tmp_path))
    path, checkpoint = find_resumable(str(tmp_path))
    assert path == str(tmp_path / found)
    assert f'iter_{checkpoint["meta"]["iter"]}.pth' == found


def test_find_resumable_finds_nothing(tmp_path):
    assert find_resumable(str(tmp_path / 'not made yet')) is None


class _TTA(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return data_samples_list


def _model():
    parts = dict(backbone=nn.Linear(2, 3), neck=nn.ReLU(), head=nn.Linear(3, 4))
    model = nn.ModuleDict({**parts, 'auxiliary_head': nn.Linear(3, 4)})
    model.test_step = model.forward
    return model


def _weights(**changes):
    weights = {k: v for k, v in _model().state_dict().items() if not k.startswith('auxiliary')}
    weights.update(changes)
    return {name: tensor for name, tensor in weights.items() if tensor is not None}


@pytest.mark.parametrize('wrap', [lambda model: model, _TTA])
@pytest.mark.parametrize('changes', [{}, {'auxiliary_head.more': torch.zeros(1)}])
def test_weights_that_fit_are_taken(wrap, changes):
    check_weights_fit(wrap(_model()), _weights(**changes), 'c.pth')


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'head.weight': None, 'head.bias': None}, r'2 missing \(head.weight, head.bias\)'),
        ({'head.weight': torch.zeros(80, 3)}, r'head.weight \(80, 3\), not \(4, 3\)'),
        ({'ema.weight': torch.zeros(1)}, r'1 unexpected \(ema.weight\)'),
        ({'backbone.weight': torch.zeros(9, 2)}, r'1 of another shape \(backbone.weight'),
    ],
)
@pytest.mark.parametrize('wrap', [lambda model: model, _TTA])
def test_weights_that_do_not_fit_are_refused(wrap, changes, said):
    with pytest.raises(UserError, match=said):
        check_weights_fit(wrap(_model()), _weights(**changes), 'c.pth')


def _vheat(depths=(1, 1), dims=4, img_size=32):
    arch = dict(depths=list(depths), dims=dims)
    return VHeat(arch, img_size=img_size, out_indices=(0, 1))


def _detector(classes=2, depths=(1, 1), dims=4):
    model = nn.ModuleDict({'backbone': _vheat(depths, dims)})
    model['head'] = nn.ModuleDict({'fc': nn.Linear(3, classes)})
    return model


@pytest.fixture
def logged(monkeypatch):
    lines = []

    def log(message, logger=None, level=20):
        lines.append((level, message))

    monkeypatch.setattr(weights_fit, 'print_log', log)
    return lines


def test_training_starts_where_only_the_head_differs(logged):
    check_start(_detector(), _detector(classes=5).state_dict(), 'c.pth')
    (warned, line), (_, everything) = logged
    assert warned == 30 and '\n' not in line
    assert 'the checkpoint has 5 classes, the config 2' in line
    assert 'head.fc.weight' in everything and 'head.fc.bias' in everything


def test_nothing_is_said_where_all_fits(logged):
    check_start(_detector(), _detector().state_dict(), 'c.pth')
    assert logged == []


@pytest.mark.parametrize('check', [check_start, check_weights_fit])
@pytest.mark.parametrize(
    ('other', 'named'),
    [
        (dict(depths=(1, 3)), 'depths 1, 3, widths 4, 8'),
        (dict(dims=6), 'depths 1, 1, widths 6, 12'),
    ],
)
@pytest.mark.parametrize('swapped', [False, True])
def test_another_arch_is_refused_by_both_names(check, other, named, swapped, logged):
    one, two = _detector(), _detector(**other)
    model, weights = (two, one) if swapped else (one, two)
    with pytest.raises(UserError, match=named) as error:
        check(model, weights.state_dict(), 'c.pth')
    line = str(error.value)
    assert 'depths 1, 1, widths 4, 8' in line and '\n' not in line
    first, second = line.index('the checkpoint has'), line.index('the config a vHeat')
    assert (first < line.index(named) < second) != swapped


def test_a_classifier_is_no_start_for_a_detector(logged):
    detector = _detector()
    detector['roi_head'] = detector.pop('head')
    with pytest.raises(UserError, match='is a classifier, the config wants a ModuleDict'):
        check_start(detector, _detector().state_dict(), 'c.pth')


def test_embeddings_of_another_size_fit():
    bigger = _vheat(img_size=64).state_dict()
    smaller = _vheat().state_dict()
    assert compare_weights(smaller, bigger).keys() == []


def test_strict_reports_all_keys():
    model = _vheat()
    state = model.state_dict()
    state['freq_embed.1'] = torch.zeros(9, 9, 5)
    state['outnorm0.weight'] = torch.zeros(7)
    state['freq_embed.0'] = torch.zeros(3, 3, 4)  # Fits: it is resized.
    del state['outnorm1.bias'], state['patch_embed.conv1.weight']
    state['freq_embed.2'] = state['more'] = torch.zeros(1)
    with pytest.raises(RuntimeError) as error:
        model.load_state_dict(state, strict=True)
    text = str(error.value)
    for name in ('freq_embed.1', 'outnorm0.weight'):
        assert f'size mismatch for {name}' in text
    assert '"patch_embed.conv1.weight", "outnorm1.bias"' in text
    assert '"more"' in text and '"freq_embed.2"' in text
    assert 'freq_embed.0' not in text


def test_read_weights_unwraps_what_mmengine_unwraps(tmp_path):
    torch.save(
        {'state_dict': {'module.head.weight': torch.ones(1)}, 'meta': {}}, tmp_path / 'a.pth'
    )
    assert read_weights(str(tmp_path / 'a.pth')) == {'head.weight': torch.ones(1)}
    torch.save({'state_dict': {}, 'meta': {}}, tmp_path / 'b.pth')
    with pytest.raises(UserError, match='it holds state_dict, meta'):
        read_weights(str(tmp_path / 'b.pth'))
