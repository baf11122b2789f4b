"""The cache for what follows from parameters: bounded, and never older than they are."""

import copy
import pickle

import pytest
import torch
from torch import nn

from mmvheat.layers.derived_cache import DerivedCache, is_cacheable

ITEM = 40  # bytes of the ten float32 that the tests derive


class Doubler:
    """Keeps twice a parameter."""

    def __init__(self, max_bytes: int = 10 * ITEM) -> None:
        self.weight = nn.Parameter(torch.arange(10.0))
        self.cache = DerivedCache(max_bytes)
        self.made = []

    def __call__(self, key: str = 'a') -> torch.Tensor:
        def make() -> torch.Tensor:
            self.made.append(key)
            return 2 * self.weight

        return self.cache.get(key, [self.weight], make)


def test_made_once_and_without_history():
    doubler = Doubler()
    with torch.inference_mode():
        first = doubler()
    assert doubler() is first
    assert doubler.made == ['a']
    assert not first.requires_grad and not first.is_inference()


def _step(doubler):
    doubler.weight.grad = torch.ones(10)
    torch.optim.SGD([doubler.weight], lr=1.0).step()


def _write(doubler):
    with torch.no_grad():
        doubler.weight.mul_(3)


def _write_a_view(doubler):
    with torch.no_grad():
        doubler.weight.view(2, 5)[1].zero_()


def _exchange_storage(doubler):
    doubler.weight.data = torch.full((10,), 7.0)


def _exchange_storage_twice(doubler):
    # The first storage is freed in between: the second could get its address.
    doubler.weight.data = torch.full((10,), 7.0)
    doubler.weight.data = torch.full((10,), 8.0)


def _exchange_parameter(doubler):
    doubler.weight = nn.Parameter(torch.full((10,), 5.0))


def _write_data_and_clear(doubler):
    doubler.weight.data.copy_(torch.ones(10))
    doubler.cache.clear()


@pytest.mark.parametrize(
    'change',
    [
        _step,
        _write,
        _write_a_view,
        _exchange_storage,
        _exchange_storage_twice,
        _exchange_parameter,
        _write_data_and_clear,
    ],
    ids=lambda change: change.__name__,
)
def test_never_stale(change):
    doubler = Doubler()
    before = doubler().clone()
    change(doubler)
    assert torch.equal(doubler(), 2 * doubler.weight)
    assert not torch.equal(doubler(), before)


def test_the_least_recently_used_goes_first():
    doubler = Doubler(max_bytes=2 * ITEM)
    for key in ('a', 'b', 'a', 'c', 'a', 'b'):
        doubler(key)
    assert doubler.made == ['a', 'b', 'c', 'b']
    assert len(doubler.cache) == 2
    assert doubler.cache.nbytes == 2 * ITEM


def test_what_is_larger_than_the_bound_is_not_kept():
    doubler = Doubler(max_bytes=ITEM - 1)
    assert torch.equal(doubler(), 2 * doubler.weight)
    assert len(doubler.cache) == 0


@pytest.mark.parametrize(
    'clone',
    [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))],
    ids=['copy', 'pickle'],
)
def test_copies_start_empty_and_with_the_same_bound(clone):
    doubler = Doubler(max_bytes=ITEM)
    doubler()
    doubler.cache = clone(doubler.cache)
    assert len(doubler.cache) == 0
    doubler('a'), doubler('b')
    assert len(doubler.cache) == 1


def test_only_real_tensors_are_cacheable():
    assert is_cacheable([torch.ones(1), nn.Parameter(torch.ones(1))])
    with torch.inference_mode():
        assert not is_cacheable([torch.ones(1)])
    seen = []
    torch.vmap(lambda x: seen.append(is_cacheable([x])) or x)(torch.ones(2, 3))
    assert seen == [False]
    fake = torch._subclasses.FakeTensorMode().from_tensor(torch.ones(1))
    assert not is_cacheable([fake])
