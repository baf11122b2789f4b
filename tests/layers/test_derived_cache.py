"""The cache for what follows from weights: bounded, and never older than they are."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmvheat.layers.derived_cache import DerivedCache

ITEM = 40  # bytes of ten float32: the weights' copy is one item, each derived tensor another


class Doubler:
    """Keeps twice its weights, ten numbers in two parameters."""

    def __init__(self, items: float = 10) -> None:
        self.weights = [nn.Parameter(torch.arange(4.0)), nn.Parameter(torch.arange(6.0))]
        self.cache = DerivedCache(int(items * ITEM))
        self.made = []

    def __call__(self, key: str = 'a') -> torch.Tensor:
        def double(weights: list) -> torch.Tensor:
            return 2 * torch.cat([weight.detach() for weight in weights])

        def make() -> torch.Tensor:
            self.made.append(key)
            return double(generation.sources)

        generation = self.cache.current(self.weights)
        result = double(self.weights) if generation is None else generation.get(key, make)
        assert self.cache.nbytes <= self.cache._max_bytes
        return result


def test_made_once_and_without_history():
    doubler = Doubler()
    with torch.inference_mode():
        first = doubler()
    assert doubler() is first
    assert doubler.made == ['a']
    assert not first.requires_grad and not first.is_inference()
    assert doubler.cache.nbytes == 2 * ITEM


def _step(doubler):
    for weight in doubler.weights:
        weight.grad = torch.ones_like(weight)
    torch.optim.SGD(doubler.weights, lr=1.0).step()


@torch.no_grad()
def _write(doubler):
    doubler.weights[1].mul_(3)


@torch.no_grad()
def _write_one_number_of_a_view(doubler):
    doubler.weights[1].view(2, 3)[1, 2] = 9


@torch.no_grad()
def _write_the_smallest_difference(doubler):
    number = doubler.weights[1][5]
    number.copy_(torch.nextafter(number, torch.tensor(torch.inf)))


def _write_through_data(doubler):
    doubler.weights[0].data.copy_(torch.ones(4))


def _write_through_numpy(doubler):
    doubler.weights[0].detach().numpy()[:] = 5


def _exchange_storage(doubler):
    doubler.weights[0].data = torch.full((4,), 7.0)


def _exchange_storage_twice(doubler):
    # The first storage is freed in between: the second could get its address.
    doubler.weights[0].data = torch.full((4,), 7.0)
    doubler.weights[0].data = torch.full((4,), 8.0)


def _exchange_parameter(doubler):
    doubler.weights[0] = nn.Parameter(torch.full((4,), 5.0))


def _exchange_for_other_shapes(doubler):
    numbers = torch.cat([weight.detach() for weight in doubler.weights])
    doubler.weights = [nn.Parameter(part) for part in numbers.flip(0).split([5, 5])]


def _write_nan(doubler):
    doubler.weights[0].data[2] = torch.nan


CHANGES = [
    _step,
    _write,
    _write_one_number_of_a_view,
    _write_the_smallest_difference,
    _write_through_data,
    _write_through_numpy,
    _exchange_storage,
    _exchange_storage_twice,
    _exchange_parameter,
    _exchange_for_other_shapes,
    _write_nan,
]


@pytest.mark.parametrize('change', CHANGES, ids=lambda change: change.__name__)
def test_never_stale(change):
    doubler = Doubler()
    before = doubler().clone()
    change(doubler)
    truth = 2 * torch.cat([weight.detach() for weight in doubler.weights])
    # Bit for bit: the one is computed from a copy of what the other is computed from.
    assert torch.equal(doubler().view(torch.int32), truth.view(torch.int32))
    assert not torch.equal(doubler(), before)
    assert doubler.made == ['a', 'a'], 'and kept again, NaN or not'


def test_equal_weights_elsewhere_in_memory_are_the_same_weights():
    doubler = Doubler()
    doubler()
    doubler.weights = [nn.Parameter(weight.detach().clone()) for weight in doubler.weights]
    doubler.weights[0].data = torch.stack([doubler.weights[0].data] * 2, 1)[:, 0]
    assert not doubler.weights[0].is_contiguous()
    doubler()
    assert doubler.made == ['a']


def test_a_cast_is_a_change():
    doubler = Doubler()
    doubler()
    doubler.weights = [nn.Parameter(weight.detach().bfloat16()) for weight in doubler.weights]
    assert doubler().dtype == torch.bfloat16


def test_a_generation_stays_right_when_the_weights_change_under_it():
    doubler = Doubler()
    generation = doubler.cache.current(doubler.weights)
    _write(doubler)
    late = generation.get('late', lambda: 2 * generation.sources[1])
    assert torch.equal(late, 2 * torch.arange(6.0))
    doubler()
    assert len(generation) == 0, 'replaced: its tensors are gone'
    generation.get('later', lambda: torch.zeros(1))
    assert len(generation) == 0, 'and it keeps no others'
    assert doubler.made == ['a']


def test_the_least_recently_used_goes_first():
    doubler = Doubler(items=3)
    for key in ('a', 'b', 'a', 'c', 'a', 'b'):
        doubler(key)
    assert doubler.made == ['a', 'b', 'c', 'b']
    assert len(doubler.cache) == 2
    assert doubler.cache.nbytes == 3 * ITEM


@pytest.mark.parametrize('items', [0, 0.9, 1, 1.9])
def test_what_is_larger_than_the_bound_is_not_kept(items):
    doubler = Doubler(items)
    for _ in range(2):
        assert torch.equal(doubler(), 2 * torch.cat(doubler.weights).detach())
    assert len(doubler.cache) == 0
    assert doubler.cache.nbytes == (ITEM if items >= 1 else 0)


def test_weights_that_outgrow_the_bound_leave_nothing_behind():
    doubler = Doubler(items=2)
    doubler()
    doubler.weights.append(nn.Parameter(torch.zeros(100)))
    doubler()
    assert doubler.cache.nbytes == len(doubler.cache) == 0


def test_clear():
    doubler = Doubler()
    first = doubler()
    doubler.cache.clear()
    assert doubler.cache.nbytes == len(doubler.cache) == 0
    assert torch.equal(doubler(), first) and doubler.made == ['a', 'a']


@pytest.mark.parametrize(
    'clone',
    [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))],
    ids=['copy', 'pickle'],
)
def test_copies_start_empty_and_with_the_same_bound(clone):
    doubler = Doubler(items=2)
    doubler()
    doubler.cache = clone(doubler.cache)
    assert len(doubler.cache) == doubler.cache.nbytes == 0
    doubler('a'), doubler('b')
    assert len(doubler.cache) == 1


def test_threads_that_change_the_weights_in_turn():
    doubler, wrong = Doubler(items=5), []
    states = [[torch.full((4,), float(i)), torch.full((6,), float(i))] for i in range(3)]

    def work(number: int) -> None:
        for i in range(300):
            state = states[(number + i) % 3]
            generation = doubler.cache.current([nn.Parameter(tensor) for tensor in state])
            result = generation.get('a', lambda g=generation: 2 * g.sources[0])
            if not torch.equal(result, 2 * state[0]) or doubler.cache.nbytes > 5 * ITEM:
                wrong.append((number, i))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize('kind', ['tensor', 'fake', 'meta', 'without_memory', 'empty'])
def test_nothing_is_kept_for_what_is_no_whole_parameter(kind):
    whole = nn.Parameter(torch.ones(3))
    sources = {
        'tensor': lambda: [whole, torch.ones(3)],
        'fake': lambda: [FakeTensorMode().from_tensor(whole)],
        'meta': lambda: [nn.Parameter(torch.ones(3, device='meta'))],
        'without_memory': lambda: [nn.Parameter(torch.ones(3))],
        'empty': lambda: [],
    }[kind]()
    if kind == 'without_memory':
        sources[0].untyped_storage().resize_(0)
    cache = DerivedCache(1000)
    assert cache.current([whole]) is not None
    assert cache.current(sources) is None


def test_nothing_is_kept_under_a_transform_or_a_mode():
    weight, cache, seen = nn.Parameter(torch.ones(3)), DerivedCache(1000), []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(cache.current([x]))
        return x

    torch.vmap(look)(weight.detach().expand(2, 3))
    with FakeTensorMode(allow_non_fake_inputs=True):
        look(weight)
    with torch.autograd.forward_ad.dual_level():
        look(weight)
    assert seen == [None] * 3
    assert cache.nbytes == 0


def test_weights_of_inference_mode_are_weights_too():
    with torch.inference_mode():
        weight = nn.Parameter(torch.ones(3))
        assert weight.is_inference()
        cache = DerivedCache(1000)
        first = cache.current([weight])
        assert cache.current([weight]) is first is not None
        weight.add_(1)
        assert cache.current([weight]) is not first
