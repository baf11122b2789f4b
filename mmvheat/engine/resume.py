"""An exact resume: a training that is stopped and resumed ends like an uninterrupted one.

Random states are a function of the position in training, not of its history. mmengine restores
neither the random state of the augmentations nor, without reading all data again, the place in the
data. Here each draw carries its own seed, so that a loader started at batch n yields what an
uninterrupted one does, with any number of workers.
"""

import random
from collections.abc import Iterator
from itertools import islice, repeat
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from torch.utils.data import DataLoader, Dataset

from mmvheat.registry import HOOKS

__all__ = ['ExactResumeHook', 'SeededLoader', 'derive_seed', 'endless_batches', 'seed_generators']


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Restores what mmengine's resume leaves out.

    - Random numbers of a training step (drop path, dropout, mixup, RoI sampling) depend on the
      seed, the iteration and the rank alone. Each rank has its own: what the libraries want equal
      on all ranks in a step (mmdet's BatchSyncRandomResize, MoCo's shuffled batches) they
      broadcast from rank 0.
    - Data continue at the batch where training stopped, without reading those before it.
    - A validation that was due at the checkpoint, and may have been cut off, is run (again).

    It needs the training loader to be a :class:`SeededLoader`, as
    :class:`mmvheat.engine.runner.CheckedRunner` makes it.
    """

    # Last of all hooks: nothing may draw between the seeding and the training step.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._saved_batches_per_epoch: int | None = None

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Note the length of an epoch, without which an iteration has no place in one."""
        meta = checkpoint['meta'] = checkpoint.get('meta') or {}
        meta['batches_per_epoch'] = len(runner.train_loop.dataloader)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Remember that length."""
        meta = checkpoint.get('meta') or {}
        self._saved_batches_per_epoch = meta.get('batches_per_epoch')

    def before_train(self, runner: Any) -> None:
        """Set the data to the place of the checkpoint and make up for a validation cut off."""
        loop = runner.train_loop
        by_epoch = not hasattr(loop, 'dataloader_iterator')
        in_epoch = loop.iter - loop.epoch * len(loop.dataloader) if by_epoch else 0
        if isinstance(loop.dataloader, SeededLoader):
            if not by_epoch:
                batches = endless_batches(loop.dataloader, loop.iter)
                # The loop of onedl-mmengine 0.10.12 skips by a call, or not at all, not by next().
                skips = hasattr(loop, 'fast_forward_on_resume')
                loop.dataloader_iterator = _Skipped(batches, loop.iter) if skips else batches
            elif in_epoch and self._saved_batches_per_epoch == len(loop.dataloader):
                loop.dataloader.skip(in_epoch)
        if loop.iter > 0 and in_epoch == 0 and self._validation_is_due(runner, by_epoch):
            runner.logger.info('Validating the resumed checkpoint, in case that was cut off.')
            runner.val_loop.run()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the random numbers that this rank draws in this step."""
        seed_generators(derive_seed(runner.seed, runner.iter, get_rank()))

    @staticmethod
    def _validation_is_due(runner: Any, by_epoch: bool) -> bool:
        if runner.val_loop is None:
            return False
        loop = runner.train_loop
        loop._decide_current_val_interval()
        done, last = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
        return done >= loop.val_begin and (done % loop.val_interval == 0 or done == last)


class _Skipped:
    """Batches without the first ``start``, for a loop that leaves these out by ``skip_iter``."""

    def __init__(self, batches: Iterator[Any], start: int) -> None:
        self._batches = islice(batches, start, None)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._batches)

    def skip_iter(self, num_iters: int) -> None:
        """Do nothing: these batches were left out."""


def derive_seed(*position: int) -> int:
    """Mix integers >= 0, such as (seed, rank, iteration), into one seed of 32 bits."""
    return int(np.random.SeedSequence(position).generate_state(1)[0])


def seed_generators(seed: int) -> None:
    """Seed the generators of python, numpy and torch (all devices) of this process."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


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
