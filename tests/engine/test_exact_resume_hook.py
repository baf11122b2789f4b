"""What a resumed run sees, draws and validates is what an uninterrupted one does."""

from pathlib import Path

import pytest
from ranks import run_in_ranks
from tiny_runner import NotingModel, tiny_runner

from mmvheat.engine import ExactResumeHook
from mmvheat.engine.distributed import end_group

# Four iterations are an epoch.
RUNS = [(True, 4), (False, 16)]


def _train(work_dir, by_epoch, length, checkpoint=None, **changes):
    model = NotingModel()
    if checkpoint is not None:
        changes.update(load_from=str(checkpoint), resume=True)
    tiny_runner(work_dir, model, by_epoch, length, **changes).train()
    return model


def _folder(path):
    """Each Runner has a folder, whose name mmengine keeps what it logs under."""
    return path / str(len(list(path.iterdir())))


@pytest.mark.parametrize('flexible', [False, True])
@pytest.mark.parametrize(('by_epoch', 'length'), RUNS)
def test_a_resumed_run_sees_and_draws_the_rest(tmp_path, by_epoch, length, flexible):
    changes = dict(flexible=flexible)
    if flexible:
        changes['strategy'] = dict(type='SingleDeviceStrategy')
    # Every second iteration a checkpoint: in the middle of epochs too.
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False))
    whole = _train(tmp_path / 'whole', by_epoch, length, default_hooks=hooks, **changes).steps
    assert len({draw for _, draw in whole}) == len(whole) == 16
    for start in (2, 4, 10, 16):
        checkpoint = tmp_path / 'whole' / f'iter_{start}.pth'
        resumed = _train(_folder(tmp_path), by_epoch, length, checkpoint, **changes).steps
        assert resumed == whole[start:], start


@pytest.mark.parametrize(('samples', 'start'), [(8, 2), (12, 0)])
def test_an_epoch_goes_on_if_it_has_the_same_length(tmp_path, samples, start):
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False))
    _train(tmp_path / 'whole', True, 1, default_hooks=hooks)
    checkpoint = tmp_path / 'whole' / 'iter_2.pth'
    resumed = _train(tmp_path / 'resumed', True, 1, checkpoint, samples=samples).steps
    assert len(resumed) == samples // 2 - start


@pytest.mark.parametrize(
    ('by_epoch', 'stop', 'validated_again'),
    [
        (True, 1, False),
        (True, 2, True),
        (True, 5, True),  # the last epoch
        (False, 7, False),
        (False, 8, True),
        (False, 20, True),
    ],
)
def test_a_validation_that_may_have_been_cut_off_is_run(tmp_path, by_epoch, stop, validated_again):
    length, interval = (5, 2) if by_epoch else (20, 8)
    options = dict(val_interval=interval)
    whole = _train(tmp_path / 'whole', by_epoch, length, **options)
    name = f'{"epoch" if by_epoch else "iter"}_{stop}.pth'
    resumed = _train(tmp_path / 'resumed', by_epoch, length, tmp_path / 'whole' / name, **options)
    done = [step for step in range(1, length + 1) if step % interval == 0 or step == length]
    assert whole.validations == len(done)
    assert resumed.validations == sum(step > stop for step in done) + validated_again


def test_a_checkpoint_without_a_meta_has_no_length_of_epochs(tmp_path):
    runner = tiny_runner(tmp_path, NotingModel())
    runner.train()
    hook = ExactResumeHook()
    for checkpoint in ({}, dict(meta=None)):
        hook.after_load_checkpoint(runner, checkpoint)
        hook.before_save_checkpoint(runner, checkpoint)
        assert checkpoint == dict(meta=dict(batches_per_epoch=4))


def train_as_rank(work_dir):
    """Train two epochs and then the second again, with and without shards.

    Returns:
        The first weight, samples and draws of each run.
    """
    runs = []
    for name in ('plain', 'sharded'):
        changes = dict(length=2, launcher='pytorch')
        if name == 'sharded':
            changes.update(flexible=True, strategy=dict(type='mmvheat.FSDPStrategy'))
        for part in ('whole', 'resumed'):
            folder = Path(work_dir, name, part)
            if part == 'resumed':
                changes.update(load_from=str(folder.parent / 'whole' / 'epoch_1.pth'), resume=True)
            runner = tiny_runner(folder, dict(type=NotingModel), samples=16, **changes)
            runner.train()
            model = runner.model.module
            runs.append([model.first_weight, *zip(*model.steps, strict=True)])
    del runner, model
    end_group()
    return runs


@pytest.mark.slow
def test_each_rank_draws_its_own_numbers_for_one_model(tmp_path):
    ranks = run_in_ranks(__file__, 'train_as_rank', tmp_path, str(tmp_path))
    for runs in ranks:
        (_, *plain), (_, *resumed), (_, *sharded), (_, *sharded_resumed) = runs
        assert sharded == plain
        assert sharded_resumed == resumed == [part[4:] for part in plain]
    for ours, theirs in zip(*ranks, strict=True):
        assert ours[0] == theirs[0], 'the first weight'
        drawn = [draw for _, _, draws in (ours, theirs) for draw in draws]
        noise = [step[1::2] for _, samples, _ in (ours, theirs) for step in samples]
        drawn += sum(noise, [])
        assert len(set(drawn)) == len(drawn)
