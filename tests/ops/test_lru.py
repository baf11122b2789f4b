"""The store behind all caches: bounded at every moment, whatever threads do."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mmvheat.ops.tensor_cache import LruStore


def nbytes(tensor: torch.Tensor) -> int:
    return tensor.nbytes


def test_the_least_recently_used_goes_first():
    store = LruStore(2, size_of=lambda tensor: 1)
    for key in ('a', 'b'):
        store.put(key, torch.zeros(1))
    store.get('a')
    store.put('c', torch.zeros(1))
    assert [store.get(key) is not None for key in 'abc'] == [True, False, True]
    assert len(store) == store.used == 2


def test_what_was_kept_first_stays_and_is_returned():
    store, first = LruStore(100, nbytes), torch.zeros(2)
    assert store.put('a', first) is first
    assert store.put('a', torch.ones(2)) is first
    assert store.used == first.nbytes


@pytest.mark.parametrize('limit', [0, 7])
def test_what_is_larger_than_the_limit_is_not_kept_and_drives_nothing_out(limit):
    store = LruStore(limit, nbytes)
    store.put('small', torch.zeros(1)[: limit // 4])
    big = torch.zeros(2)
    assert store.put('big', big) is big and store.get('big') is None
    assert store.get('small') is not None


def test_a_closed_store_keeps_nothing():
    store = LruStore(100, nbytes)
    store.put('a', torch.zeros(1))
    store.close()
    store.put('b', torch.zeros(0))
    assert len(store) == store.used == 0


def test_threads_never_see_more_than_the_limit_nor_a_wrong_tensor():
    store, sizes = LruStore(400, nbytes), range(1, 30)

    def work(seed: int) -> int:
        draw, most = random.Random(seed), 0
        for _ in range(2000):
            size = draw.choice(sizes)
            found = store.get(size)
            if found is None:
                found = store.put(size, torch.full((size,), float(size)))
            assert found.shape == (size,) and found[0] == size
            most = max(most, store.used)
        return most

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(work, range(8))) <= 400
    assert store.used == sum(
        store.get(size).nbytes for size in sizes if store.get(size) is not None
    )
