import random
from itertools import islice

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import DataLoader, Dataset

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
