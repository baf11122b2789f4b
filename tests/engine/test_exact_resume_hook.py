import random
from itertools import islice
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from torch.utils.data import DataLoader

from mmvheat.engine import ExactResumeHook
from mmvheat.engine.seeded_loader import SeededLoader


def _runner(iteration, epoch=None, seed=0):
    """A runner at an iteration: 4 batches an epoch, validation every 2 epochs or 8 iterations."""
    data = torch.arange(8)
    sampler = DefaultSampler(data, shuffle=False)
    loader = SeededLoader(DataLoader(data, batch_size=2, sampler=sampler), seed, rank=0)
    loop = SimpleNamespace(
        dataloader=loader,
        iter=iteration,
        epoch=epoch or 0,
        max_epochs=5,
        max_iters=20,
        val_begin=1,
        val_interval=2 if epoch is not None else 8,
        _decide_current_val_interval=lambda: None,
    )
    if epoch is None:
        loop.dataloader_iterator = iter(loader)
    return SimpleNamespace(
        train_loop=loop, val_loop=Mock(), logger=Mock(), seed=seed, iter=iteration
    )


@pytest.mark.parametrize(
    ('iteration', 'epoch', 'validates'),
    [
        (0, 0, False),
        (4, 1, False),
        (8, 2, True),
        (9, 2, False),  # in mid-epoch
        (20, 5, True),  # the last epoch
        (0, None, False),
        (7, None, False),
        (8, None, True),
        (20, None, True),
    ],
)
def test_a_validation_that_may_be_cut_off_is_run(iteration, epoch, validates):
    runner = _runner(iteration, epoch)
    ExactResumeHook().before_train(runner)
    assert runner.val_loop.run.called == validates


def test_iterations_continue_at_their_batch():
    runner = _runner(6)
    ExactResumeHook().before_train(runner)
    batches = list(islice(runner.train_loop.dataloader_iterator, 8))
    # Six that the loop throws away, then the third of the second pass.
    assert batches[:6] == [None] * 6
    assert [batch.tolist() for batch in batches[6:]] == [[4, 5], [6, 7]]


@pytest.mark.parametrize(('saved', 'first'), [(4, [2, 3]), (8, [0, 1])])
def test_an_epoch_continues_at_its_batch_if_it_has_the_same_length(saved, first):
    runner, hook = _runner(9, 2), ExactResumeHook()
    hook.after_load_checkpoint(runner, {'meta': {'batches_per_epoch': saved}})
    hook.before_train(runner)
    assert next(iter(runner.train_loop.dataloader)).tolist() == first


def test_a_step_draws_the_same_whatever_came_before():
    def draw(iteration, seed):
        hook.before_train_iter(_runner(iteration, seed=seed), iteration)
        return random.random(), np.random.rand(), torch.rand(()).item()

    hook = ExactResumeHook()
    first = draw(3, 0)
    assert draw(3, 0) == first
    assert not set(draw(4, 0)) & set(first)
    assert not set(draw(3, 1)) & set(first)
