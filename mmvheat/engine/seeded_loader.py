"""A training data loader whose order and augmentations depend on the position in training alone.

mmengine restores neither the random state of the augmentations nor, without reading all data
again, the place in the data. Here each draw carries its own seed, so that a loader started at batch
n yields what an uninterrupted one does, with any number of workers.
"""

from collections.abc import Iterator
from itertools import islice, repeat
from typing import Any

from torch.utils.data import DataLoader, Dataset

from .randomness import derive_seed, seed_generators

__all__ = ['SeededLoader', 'endless_batches']


class _Draw(int):
    """The index of a sample together with the seed of its augmentations."""

    seed: int

    def __new__(cls, index: int, seed: int) -> '_Draw':
        draw = super().__new__(cls, index)
        draw.seed = seed
        return draw

    def __reduce__(self) -> tuple:
        return _Draw, (int(self), self.seed)


class _SeededDataset(Dataset):
    """Seeds the generators before each sample; passes all else to the dataset it wraps."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __getattr__(self, name: str) -> Any:
        # Unpickling asks for attributes before __init__ has set any.
        if name == '_dataset':
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # Hooks that switch the pipeline must reach the dataset that has one.
        if name == '_dataset':
            super().__setattr__(name, value)
        else:
            setattr(self._dataset, name, value)

    def __getitem__(self, draw: _Draw) -> Any:
        seed_generators(draw.seed)
        return self._dataset[int(draw)]

    def __len__(self) -> int:
        return len(self._dataset)


class _SeededBatchSampler:
    """Adds the seeds to the batches of a sampler and can leave out the first of a pass.

    Args:
        batch_sampler: Yields lists of indices; its ``sampler`` knows the epoch.
        seed: Seed of the training run.
        rank: Rank of this process.
    """

    def __init__(self, batch_sampler: Any, seed: int, rank: int) -> None:
        self.batch_sampler = batch_sampler
        self.sampler = batch_sampler.sampler
        self.batch_size = batch_sampler.batch_size
        self.drop_last = batch_sampler.drop_last
        self.seed = seed
        self.rank = rank
        self.skip = 0

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[_Draw]]:
        skip, self.skip = self.skip, 0
        position = (self.seed, self.rank, getattr(self.sampler, 'epoch', 0))
        for number, batch in islice(enumerate(self.batch_sampler), skip, None):
            yield [
                _Draw(index, derive_seed(*position, number, place))
                for place, index in enumerate(batch)
            ]


class SeededLoader(DataLoader):
    """A copy of a data loader with a seed for each draw.

    Args:
        loader: What the Runner built for training.
        seed: Seed of the training run.
        rank: Rank of this process.
    """

    def __init__(self, loader: DataLoader, seed: int, rank: int) -> None:
        super().__init__(
            dataset=_SeededDataset(loader.dataset),
            batch_sampler=_SeededBatchSampler(loader.batch_sampler, seed, rank),
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
        )

    def __iter__(self) -> Iterator[Any]:
        # Lazy: mmengine's loop asks for an iterator before it knows where training resumes.
        yield from super().__iter__()

    def skip(self, batches: int) -> None:
        """Leave out the first batches of the next pass, without reading their data."""
        self.batch_sampler.skip = batches


def endless_batches(loader: SeededLoader, start: int) -> Iterator[Any]:
    """Yield batches for an iteration-based loop that resumes after ``start`` batches.

    Args:
        loader: A loader whose sampler is endless or, as mmengine's, has an ``epoch``.
        start: Batches already trained on. mmengine's loop throws this number of batches away: they
            are None here, so that it costs nothing.

    Yields:
        None ``start`` times, then batch ``start`` and its followers, pass after pass.
    """
    yield from repeat(None, start)
    sampler = loader.batch_sampler.sampler
    finite = hasattr(sampler, 'epoch')
    epoch, skip = divmod(start, len(loader)) if finite else (0, start)
    while True:
        if finite:
            sampler.set_epoch(epoch)
        loader.skip(skip)
        yield from loader
        epoch, skip = epoch + 1, 0
