"""Writing, finding and checking checkpoints."""

import os
import re
import shutil
from collections import deque
from logging import INFO, WARNING
from types import SimpleNamespace

import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.model import BaseTTAModel
from mmengine.runner import Runner as MMEngineRunner
from tiny_runner import NotingModel, tiny_runner
from torch import nn

from mmvheat.checkpoint.fit import compare_weights
from mmvheat.cli import preflight
from mmvheat.cli.preflight import find_resumable, open_checkpoint
from mmvheat.engine import SafeCheckpointHook, weights_fit
from mmvheat.engine.runner import Runner
from mmvheat.engine.weights_fit import (
    WeightsFitHook,
    check_start,
    check_weights_fit,
    report_weights,
)
from mmvheat.errors import UserError
from mmvheat.models import VHeat


class _KilledError(Exception):
    pass


def _save(folder, name, **content):
    meta = dict(epoch=0, iter=int(re.search(r'\d+', name)[0]))
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
        call_hook=lambda *_: None,
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


@pytest.fixture
def warnings(monkeypatch):
    """What is said about the checkpoints that are passed over."""
    lines = []
    monkeypatch.setattr(preflight, 'print_log', lambda line, *_: lines.append(line))
    return lines


def _found(folder, *arguments):
    found = find_resumable(str(folder), *arguments)
    return found.path.removeprefix(f'{folder}/'), found.meta['iter']


def _check_resumable(path):
    checkpoint = open_checkpoint(str(path))
    checkpoint.check_resumable()
    checkpoint.check_data()


@pytest.mark.parametrize('pointer', [None, '', '{}/iter_8.pth', '{}/iter_4.pth', 'elsewhere'])
def test_the_furthest_whole_checkpoint_is_resumed(tmp_path, warnings, pointer):
    for name in ('iter_8.pth', 'iter_12.pth', 'iter_16.pth'):
        _save(tmp_path, name)
    whole = (tmp_path / 'iter_16.pth').read_bytes()
    (tmp_path / 'iter_16.pth').write_bytes(whole[: len(whole) // 2])
    (tmp_path / 'iter_20.pth.part').write_bytes(whole)
    if pointer is not None:
        (tmp_path / 'last_checkpoint').write_text(pointer.format(tmp_path))
    assert _found(tmp_path) == ('iter_12.pth', 12)
    (line,) = warnings
    assert line.startswith(f'Not resumed: {tmp_path}/iter_16.pth is truncated or damaged')


def test_a_copied_folder_resumes_from_itself(tmp_path):
    one, two = tmp_path / 'one', tmp_path / 'two'
    one.mkdir()
    _save(one, 'iter_8.pth')
    (one / 'last_checkpoint').write_text(str(one / 'iter_8.pth'))
    shutil.copytree(one, two)
    _save(one, 'iter_12.pth')
    assert find_resumable(str(two)).path == str(two / 'iter_8.pth')


def test_the_record_counts_and_not_the_name_or_the_age(tmp_path):
    for age, (name, epoch, iteration) in enumerate(
        [('epoch_12.pth', 12, 480), ('iter_300.pth', 7, 300), ('step-7', 7, 481)]
    ):
        _save(tmp_path, name, meta=dict(epoch=epoch, iter=iteration))
        os.utime(tmp_path / name, (9 - age, 9 - age))
    assert _found(tmp_path) == ('epoch_12.pth', 480)
    assert _found(tmp_path, 'step-{:d}') == ('step-7', 481)
    # Of two at one iteration, the later epoch: a validation may have been cut off between them.
    _save(tmp_path, 'iter_481.pth', meta=dict(epoch=6, iter=481))
    assert _found(tmp_path, 'step-{:d}') == ('step-7', 481)


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        (dict(meta=None), "lacks meta['epoch'], meta['iter']"),
        (dict(meta=[]), "lacks meta['epoch'], meta['iter']"),
        (dict(meta=dict(epoch=1)), "lacks meta['iter']"),
        (dict(meta=dict(epoch=1, iter='9')), "lacks meta['iter']"),
        (dict(meta=dict(epoch=1, iter=-9)), "lacks meta['iter']"),
        (dict(meta=dict(epoch=None, iter=9)), "lacks meta['epoch']"),
    ],
)
def test_a_checkpoint_without_a_place_in_training(tmp_path, warnings, content, said):
    _save(tmp_path, 'iter_8.pth')
    _save(tmp_path, 'iter_9.pth', **content)
    assert _found(tmp_path) == ('iter_8.pth', 8)
    assert len(warnings) == 1 and f'iter_9.pth {said}: ' in warnings[0]
    with pytest.raises(UserError, match='iter_9.pth lacks .*load_from='):
        _check_resumable(tmp_path / 'iter_9.pth')


def test_weights_alone_are_no_checkpoint_to_resume(tmp_path, warnings):
    for name in ('best_score_8.pth', 'converted_8.pth'):
        torch.save(dict(state_dict={}, meta=dict(epoch=1, iter=8)), tmp_path / name)
    assert find_resumable(str(tmp_path)) is None
    assert len(warnings) == 1 and 'converted_8.pth lacks message_hub, optimizer' in warnings[0]


def test_flipped_bits_are_found_before_training_starts(tmp_path, warnings):
    """The keys can be read, and torch compares no checksum of the data."""
    _save(tmp_path, 'iter_4.pth')
    _save(tmp_path, 'iter_8.pth', state_dict=dict(weight=torch.ones(1000)))
    data = bytearray((tmp_path / 'iter_8.pth').read_bytes())
    data[data.index(torch.ones(50).numpy().tobytes()) + 99] ^= 1
    (tmp_path / 'iter_8.pth').write_bytes(data)
    assert _found(tmp_path) == ('iter_4.pth', 4)
    assert len(warnings) == 1 and 'iter_8.pth is damaged' in warnings[0]
    with pytest.raises(UserError, match='iter_8.pth is damaged .*: copy it again'):
        _check_resumable(tmp_path / 'iter_8.pth')


def test_links(tmp_path, warnings):
    """A link to a file outside is what `cp -r` makes of one; the folder itself may be a link."""
    folder, other = tmp_path / 'folder', tmp_path / 'other'
    folder.mkdir()
    other.mkdir()
    _save(other, 'iter_99.pth')
    _save(folder, 'iter_8.pth')
    (folder / 'iter_99.pth').symlink_to(other / 'iter_99.pth')
    (folder / 'iter_100.pth').symlink_to(folder / 'gone.pth')
    (folder / 'a_latest.pth').symlink_to('iter_8.pth')
    (tmp_path / 'link').symlink_to(folder)
    for place in (folder, tmp_path / 'link'):
        assert _found(place)[1] == 8
        assert len(warnings) == 2
        assert 'iter_100.pth does not exist' in warnings[0]
        assert f'iter_99.pth is a link to {other}/iter_99.pth, outside of the folder' in warnings[1]
        warnings.clear()


def test_find_resumable_finds_nothing(tmp_path):
    assert find_resumable(str(tmp_path / 'not made yet')) is None
    assert find_resumable(str(tmp_path)) is None


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    for name in ('epoch_3.pth', 'best_tiny_score_epoch_3.pth', 'step-3'):
        (tmp_path / f'{name}.part').write_text('half')
    (tmp_path / 'download.part').write_text('half')
    hook = dict(type='CheckpointHook', interval=1, filename_tmpl='step-{}')
    tiny_runner(tmp_path, NotingModel(), length=1, default_hooks=dict(checkpoint=hook)).train()
    assert [path.name for path in tmp_path.glob('*.part')] == ['download.part']
    assert (tmp_path / 'step-1').is_file()


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


def _vheat(depths=(1, 1), dims=4, img_size=32, in_channels=3):
    arch = dict(depths=list(depths), dims=dims)
    return VHeat(arch, in_channels, img_size=img_size, out_indices=(0, 1))


def _detector(classes=2, depths=(1, 1), dims=4, **changes):
    model = nn.ModuleDict({'backbone': _vheat(depths, dims, **changes)})
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
    other = _detector(classes=5).state_dict()
    check_start(_detector(), other, 'c.pth')
    assert logged == []
    report_weights(_detector(), other, 'c.pth')
    (warned, line), (_, everything) = logged
    assert warned == WARNING and '\n' not in line
    kept = len(other) - 2
    assert f'Load c.pth: {kept} keys matched, 0 of them resized, 0 missing, 0 unexpected' in line
    assert '2 of another shape' in line and 'the checkpoint has 5 classes, the config 2' in line
    assert 'starts anew' in line
    assert 'head.fc.weight' in everything and 'head.fc.bias' in everything


@pytest.mark.parametrize('shapes', [False, True])
def test_all_that_fits_is_counted(logged, shapes):
    model, weights = _detector(), _detector().state_dict()
    weights['backbone.freq_embed.0'] = torch.zeros(3, 5, 4)
    if shapes:  # as a strategy that shards the model keeps them
        model = {name: tensor.shape for name, tensor in model.state_dict().items()}
    check_start(model, weights, 'c.pth')
    report_weights(model, weights, 'c.pth')
    height, width = _detector().backbone.freq_embed[0].shape[:2]
    line = (
        f'Load c.pth: {len(weights)} keys matched, 1 of them resized (backbone.freq_embed.0 '
        f'3x5 -> {height}x{width}), 0 missing, 0 unexpected'
    )
    assert logged == [(INFO, line)]


@pytest.mark.parametrize('changes', [dict(in_channels=4), dict(img_size=64)])
def test_what_the_backbone_fits_starts_a_training_and_resumes_none(changes, logged):
    """The optimizer's state keeps the old shapes, with which its step writes out of bounds."""
    weights, model = _detector().state_dict(), _detector(**changes)
    check_start(model, weights, 'c.pth')
    check_weights_fit(model, weights, 'c.pth')
    assert logged == []
    report_weights(model, weights, 'c.pth')
    ((level, line),) = logged
    words = 'adapted from 3 to 4 input channels' if 'in_channels' in changes else '8x8 -> 16x16'
    assert level == INFO and line.count(words) == 1 and f'{len(weights)} keys matched' in line
    runner = SimpleNamespace(
        model=model, _load_from='c.pth', _train_dataloader=dict(), _resume=False
    )
    WeightsFitHook().after_load_checkpoint(runner, dict(state_dict=weights))
    runner._resume = True
    with pytest.raises(UserError, match='load_from=c.pth') as error:
        WeightsFitHook().after_load_checkpoint(runner, dict(state_dict=weights))
    assert 'another img_size or in_channels (backbone.' in str(error.value)
    runner.model = _detector()
    WeightsFitHook().after_load_checkpoint(runner, dict(state_dict=weights))


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
    with pytest.raises(UserError, match='is a classifier, the model of the config is none'):
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


def test_names_are_unwrapped_as_mmengine_unwraps_them(tmp_path):
    torch.save(
        {'state_dict': {'module.head.weight': torch.ones(1)}, 'meta': {}}, tmp_path / 'a.pth'
    )
    ((name, weight),) = open_checkpoint(str(tmp_path / 'a.pth')).weights.items()
    assert name == 'head.weight' and weight.shape == (1,)
    torch.save({'state_dict': {}, 'meta': {}}, tmp_path / 'b.pth')
    with pytest.raises(UserError, match='it holds state_dict, meta'):
        open_checkpoint(str(tmp_path / 'b.pth')).check_weights()
