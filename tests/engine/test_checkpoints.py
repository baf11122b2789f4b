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

from mmvheat.engine import SafeCheckpointHook
from mmvheat.engine.checkpoint_check import check_weights_fit, find_resumable, read_weights
from mmvheat.engine.errors import CommandLineError
from mmvheat.engine.runner import Runner


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
def test_weights_that_fit_are_taken(wrap):
    # Extra tensors, a resized embedding and no auxiliary head are no mistakes.
    resized = {'backbone.weight': torch.zeros(9, 2), 'ema.weight': torch.zeros(1)}
    check_weights_fit(wrap(_model()), _weights(**resized), 'c.pth')


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'head.weight': None, 'head.bias': None}, 'c.pth has no weights for head of ModuleDict'),
        (
            {'head.weight': torch.zeros(80, 3)},
            r'head.weight has shape \(80, 3\), .* wants \(4, 3\)',
        ),
    ],
)
@pytest.mark.parametrize('wrap', [lambda model: model, _TTA])
def test_weights_that_do_not_fit_are_refused(wrap, changes, said):
    with pytest.raises(CommandLineError, match=said):
        check_weights_fit(wrap(_model()), _weights(**changes), 'c.pth')


def test_read_weights_unwraps_what_mmengine_unwraps(tmp_path):
    torch.save(
        {'state_dict': {'module.head.weight': torch.ones(1)}, 'meta': {}}, tmp_path / 'a.pth'
    )
    assert read_weights(str(tmp_path / 'a.pth')) == {'head.weight': torch.ones(1)}
    torch.save({'state_dict': {}, 'meta': {}}, tmp_path / 'b.pth')
    with pytest.raises(CommandLineError, match='it holds state_dict, meta'):
        read_weights(str(tmp_path / 'b.pth'))
