"""An exact resume: seeded draws, the place in the data, and a run that ends as if never stopped."""

import random
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from ranks import run_in_ranks
from tiny_runner import NotingModel, tiny_runner
from torch.utils.data import DataLoader, Dataset

from mmvheat.engine import ExactResumeHook
from mmvheat.engine.distributed import end_group
from mmvheat.engine.resume import SeededLoader, endless_batches


class _Noise(Dataset):
    """Samples whose values come from all three generators, counted as they are read."""

    read = 0
    metainfo = 'passed on'

    def __len__(self):
        return 7

    def __getitem__(self, index):
        self.read += 1
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()])


def _loader(sampler=DefaultSampler, workers=0, rank=0, seed=0):
    dataset = _Noise()
    loader = DataLoader(
        dataset,
        batch_size=2,
        sampler=sampler(dataset, shuffle=True, seed=1),
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return SeededLoader(loader, seed, rank)


def _take(batches, count):
    return [batch if batch is None else batch.double() for batch in islice(batches, count)]


@pytest.mark.parametrize('sampler', [DefaultSampler, InfiniteSampler])
@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('start', [1, 4, 10])
def test_a_resumed_stream_continues_the_uninterrupted_one(sampler, workers, start):
    whole = _take(endless_batches(_loader(sampler), 0), 13)
    random.seed(5)
    torch.manual_seed(5)
    resumed = _take(endless_batches(_loader(sampler, workers), start), 13)
    assert resumed[:start] == [None] * start
    assert all(torch.equal(*pair) for pair in zip(whole[start:], resumed[start:], strict=True))


def test_skipped_batches_are_not_read():
    loader = _loader(InfiniteSampler)
    _take(endless_batches(loader, 1000), 1001)
    assert loader.dataset.read == 2


def test_a_pass_can_start_in_the_middle_and_the_next_is_whole():
    whole, resumed = _loader(), _loader()
    resumed.skip(3)
    assert torch.equal(list(whole)[3], list(resumed)[0])
    assert len(list(resumed)) == len(whole) == 4


def test_augmentations_differ_between_samples_passes_ranks_and_seeds():
    loaders = [_loader(), _loader(rank=1), _loader(seed=1)]
    draws = [torch.cat(_take(endless_batches(loader, 0), 8))[:, 1:] for loader in loaders]
    assert torch.cat(draws).flatten().unique().numel() == 3 * 14 * 3


def test_the_dataset_shows_through():
    loader = _loader()
    assert loader.dataset.metainfo == 'passed on'
    loader.dataset.metainfo = 'set by a hook'
    assert loader.dataset._dataset.metainfo == 'set by a hook'
    with pytest.raises(AttributeError, match='pipeline'):
        _ = _loader().dataset.pipeline


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
