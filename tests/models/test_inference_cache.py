"""In eval mode the decays are made once for each size, and never differ from the weights."""

import copy
import io
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.utils.prune

from mmvheat.layers import heat2d
from mmvheat.models import VHeat
from mmvheat.models import vheat as stage

ROOT = Path(__file__).parents[2]
ARCH = dict(depths=[1, 2], dims=8, post_norm=True, layer_scale_init_value=0.5)


@pytest.fixture
def made(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes of all decays made."""
    made, make = [], heat2d.heat_decay

    def heat_decay(k):
        made.append(tuple(k.shape[:2]))
        return make(k)

    for module in (heat2d, stage):
        monkeypatch.setattr(module, 'heat_decay', heat_decay)
    return made


def kept(model: VHeat) -> int:
    """How many decays the model keeps."""
    return len(model._decay_cache)


def truth(model: VHeat, x: torch.Tensor) -> list[torch.Tensor]:
    """What the model computes where nothing is kept."""
    with torch.enable_grad():
        return [out.detach() for out in model(x)]


def check(model: VHeat, x: torch.Tensor) -> None:
    with torch.no_grad():
        for out, expected in zip(model(x), truth(model, x), strict=True):
            torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode], ids=lambda m: m.__name__)
@pytest.mark.parametrize('precision', [None, torch.bfloat16], ids=str)
def test_sizes_take_turns(model, made, precision, mode):
    inputs = [torch.randn(2, 3, *size) for size in ((32, 32), (40, 21), (9, 64))]
    autocast = partial(torch.autocast, 'cpu', precision, enabled=precision is not None)
    with autocast(), mode():
        first = [model(x) for x in inputs]
        made.clear()
        again = [model(x) for x in inputs]
    assert made == []
    for kept, fresh, x in zip(again, first, inputs, strict=True):
        # Each in its own autocast: torch 2.6 goes on using the casts of inference mode in one.
        with autocast():
            expected_maps = truth(model, x)
        for left, right, expected in zip(kept, fresh, expected_maps, strict=True):
            # The very same computation twice.
            assert torch.equal(left, right)
            # Without gradients the CPU has other kernels, which round elsewhere.
            atol = 1e-6 if precision is None else 0.05
            torch.testing.assert_close(left, expected, atol=atol, rtol=1e-6)


def test_each_precision_has_its_own(model):
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        with torch.autocast('cpu', torch.bfloat16):
            model(x)
    check(model, x)
    check(model.double(), x.double())


def _load(model):
    state = {k: v + 0.1 * torch.randn_like(v) for k, v in model.state_dict().items()}
    model.load_state_dict(state)


def _assign(model):
    state = {k: v + 0.1 * torch.randn_like(v) for k, v in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def _train_a_step(model):
    model.train()
    model(torch.randn(2, 3, 32, 32))[1].square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    model.eval()


def _swap_as_ema_does(model):
    # mmengine's EMAHook exchanges through .data; here nobody calls eval() afterwards.
    average = copy.deepcopy(model)
    _load(average)
    for own, other in zip(model.parameters(), average.parameters(), strict=True):
        own.data, other.data = other.data, own.data


def _copy_through_data(model):
    for parameter in model.parameters():
        parameter.data.copy_(parameter.data + 0.1 * torch.randn_like(parameter))


def _write_one_embedding(model):
    with torch.no_grad():
        model.freq_embed[1].add_(1.0)


def _write_one_number(model):
    model.layers[1][1].op.to_k[0].bias.data[3] += 5


def _exchange_a_module(model):
    model.layers[0][0].op.to_k = copy.deepcopy(model.layers[0][0].op.to_k)
    torch.nn.init.normal_(model.layers[0][0].op.to_k[0].weight)


def _prune(model):
    # A plain tensor takes the parameter's place.
    torch.nn.utils.prune.random_unstructured(model.layers[1][0].op.to_k[0], 'weight', 0.5)


@pytest.mark.parametrize(
    'change',
    [
        _load,
        _assign,
        _train_a_step,
        _swap_as_ema_does,
        _copy_through_data,
        _write_one_embedding,
        _write_one_number,
        _exchange_a_module,
        _prune,
    ],
    ids=lambda change: change.__name__,
)
def test_never_stale(model, change):
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        before = model(x)[1]
    change(model)
    check(model, x)
    with torch.no_grad():
        assert not torch.allclose(model(x)[1], before)


def test_nothing_is_kept_while_gradients_are_recorded_or_in_training(model, made):
    x = torch.randn(1, 3, 32, 32)
    model(x)
    model.train()
    with torch.no_grad():
        model(x)
    assert kept(model) == 0
    model.eval()
    with torch.no_grad():
        model(x)
    made.clear()
    model(x)[1].sum().backward()
    assert len(made) == 3
    assert all(block.op.to_k[0].weight.grad is not None for block in list(model.layers[1]))


def test_copies_and_files_know_nothing_of_it(model):
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 48))
    assert kept(model) == 3
    fresh = VHeat(ARCH, img_size=32, out_indices=(0, 1))
    assert model.state_dict().keys() == fresh.state_dict().keys()
    clone = copy.deepcopy(model)
    assert kept(clone) == clone._decay_cache.nbytes == 0
    check(clone, torch.randn(1, 3, 32, 32))
    assert kept(clone) == 3 and kept(model) == 3
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    check(torch.load(file, weights_only=False), torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize('move', ['double', 'bfloat16', 'cpu'])
def test_a_model_that_is_moved_leaves_nothing_behind(model, move):
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 48))
    assert kept(model) == 3
    getattr(model, move)()
    assert kept(model) == model._decay_cache.nbytes == 0


def test_an_ensemble_by_functional_call_and_vmap(model):
    x = torch.randn(1, 3, 32, 32)
    other = copy.deepcopy(model)
    _load(other)
    params, _ = torch.func.stack_module_state([model, other])
    with torch.no_grad():
        model(x), other(x)
        both = torch.vmap(lambda p: torch.func.functional_call(model, p, (x,))[1])(params)
        torch.testing.assert_close(both[0], model(x)[1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(both[1], other(x)[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('drop', ['clear_decay_cache', 'train', 'eval', 'fold'])
def test_what_frees_the_memory(model, drop):
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 48))
    assert kept(model) == 3 and model._decay_cache.nbytes > 0
    getattr(model, drop)()
    assert kept(model) == model._decay_cache.nbytes == 0


def test_weights_that_come_back_are_not_mixed_with_what_was_made_between(model):
    x, state = torch.randn(1, 3, 40, 24), copy.deepcopy(model.state_dict())
    with torch.no_grad():
        first = model(x)[1]
        _copy_through_data(model)
        model(x)
        for name, parameter in model.named_parameters():
            parameter.data = state[name]
        torch.testing.assert_close(model(x)[1], first, atol=1e-6, rtol=1e-6)
    check(model, x)


def test_only_the_stages_that_run_count():
    model = VHeat(dict(depths=[1, 1, 1], dims=8), img_size=32, out_indices=(1,)).eval()
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
        assert kept(model) == 2
        before = model._decay_cache.nbytes
        model.layers[2][0].op.to_k[0].weight.add_(1)
        model(torch.randn(1, 3, 32, 32))
    assert kept(model) == 2 and model._decay_cache.nbytes == before


def test_weights_of_inference_mode(made):
    with torch.inference_mode():
        model = VHeat(ARCH, img_size=32, out_indices=(0, 1)).eval()
        x = torch.randn(1, 3, 32, 48)
        first = model(x)[1]
        made.clear()
        assert torch.equal(model(x)[1], first) and made == []
        for parameter in model.parameters():
            parameter.add_(0.1)
        model(x)
        assert len(made) == 3


@pytest.mark.parametrize('budget', [0, 1, 2])
def test_the_whole_model_stays_within_its_budget(budget, monkeypatch, made):
    model = VHeat(ARCH, img_size=32, out_indices=(0, 1), decay_cache_mib=budget).eval()
    cache, most = model._decay_cache, [0]
    make = stage.heat_decay

    def watch(k):
        most.append(cache.nbytes)
        return make(k)

    monkeypatch.setattr(stage, 'heat_decay', watch)
    sizes = [(512 + 32 * i, 416) for i in range(4)]  # 0.8 to 1.0 MB of decays each
    with torch.no_grad():
        for size in [sizes[0], *sizes, sizes[3]]:
            made.clear()
            model(torch.randn(1, 3, *size))
            most.append(cache.nbytes)
            assert cache.nbytes <= budget * 2**20
        # The last size was kept, unless there is no room at all.
        assert len(made) == (3 if budget == 0 else 0)
    assert max(most) > 0.6 * budget * 2**20 or budget == 0
    check(model, torch.randn(1, 3, *sizes[0]))


@pytest.fixture
def hasty_threads():
    """Let threads take turns so often that a race shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize('budget', [1, 512])
def test_threads_get_what_one_thread_gets(model, budget, hasty_threads):
    """8 threads at random sizes, 1,000 calls in the two tests; decays come and go in one."""
    state = model.state_dict()
    model, alone = (
        VHeat(ARCH, img_size=32, out_indices=(0, 1), decay_cache_mib=mib).eval()
        for mib in (budget, 0)
    )
    model.load_state_dict(state), alone.load_state_dict(state)
    draw = random.Random(0)
    sizes = [(draw.randint(1, 200), draw.randint(1, 200)) for _ in range(25)]
    images = [torch.randn(1, 3, *size) for size in sizes]
    with torch.inference_mode():
        expected = [alone(x) for x in images]
    calls = [draw.randrange(len(sizes)) for _ in range(500)]

    def call(number: int) -> float:
        with torch.inference_mode():
            outs = model(images[number])
        assert model._decay_cache.nbytes <= budget * 2**20
        pairs = zip(outs, expected[number], strict=True)
        return max(
            ((out - wanted).abs().max() / wanted.abs().max()).item() for out, wanted in pairs
        )

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(call, calls)) < 1e-5
    assert kept(model) > 0


RANKS = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel
from mmvheat.engine.fsdp import wrap_heat_blocks
from mmvheat.models import VHeat

torch.set_num_threads(1)
rank = int(sys.argv[1])
dist.init_process_group('gloo', init_method=f'file://{sys.argv[2]}', rank=rank, world_size=2)
arch = dict(depths=[1, 2], dims=8, post_norm=True, layer_scale_init_value=0.5)


def build(seed):
    torch.manual_seed(seed)
    model = VHeat(arch, img_size=32, out_indices=(0, 1)).eval()
    for name, parameter in model.named_parameters():
        if 'to_k' in name or 'freq_embed' in name:
            torch.nn.init.normal_(parameter)
    return model


x = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def check(model, what, before=None):
    with torch.no_grad():
        out, again = model(x)[1], model(x)[1]
    truth = model(x)[1].detach()
    torch.testing.assert_close(out, truth, atol=1e-5, rtol=1e-5, msg=lambda m: f'{what}: {m}')
    torch.testing.assert_close(again, truth, atol=1e-5, rtol=1e-5, msg=lambda m: f'{what}: {m}')
    assert before is None or (out - before).abs().max() > 0.05, what
    return out


model = build(seed=rank)
before = check(model, 'own weights')
with torch.no_grad():
    for parameter in model.parameters():
        dist.broadcast(parameter, 0)
out = check(model, 'broadcast', before if rank == 1 else None)
both = [torch.empty_like(out) for _ in range(2)]
dist.all_gather(both, out)
torch.testing.assert_close(both[0], both[1], atol=1e-5, rtol=1e-5)

other = build(seed=2 + rank)
before = check(other, 'own weights')
with torch.no_grad():
    for parameter in other.parameters():
        dist.all_reduce(parameter)
before = check(other, 'all_reduce', before)
# As mmengine's EMA hook, whose swap nobody follows with eval() here.
for own, average in zip(other.parameters(), model.parameters()):
    own.data, average.data = average.data, own.data
check(other, 'swap', before)
check(model, 'swap', out)

for original in (False, True):
    whole = build(seed=7)
    expected = check(whole, 'whole')
    sharded = FullyShardedDataParallel(
        build(seed=7), auto_wrap_policy=wrap_heat_blocks, device_id=torch.device('cpu'),
        use_orig_params=original,
    ).eval()
    for _ in range(3):
        with torch.no_grad():
            torch.testing.assert_close(sharded(x)[1], expected, atol=1e-5, rtol=1e-5)
    sharded.train()
    sharded(x)[1].square().sum().backward()
    torch.optim.SGD(sharded.parameters(), lr=0.1).step()
    sharded.eval()
    with torch.no_grad():
        out = sharded(x)[1]
    torch.testing.assert_close(out, sharded(x)[1].detach(), atol=1e-5, rtol=1e-5)
    assert (out - expected).abs().max() > 0.01
dist.barrier()
dist.destroy_process_group()
print('right')
"""


@pytest.mark.slow
def test_two_ranks_whose_weights_collectives_change(tmp_path):
    command = [sys.executable, '-c', RANKS]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / 'store')],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for rank in ranks:
            out, err = rank.communicate(timeout=120)
            assert rank.returncode == 0 and out.strip() == 'right', err[-3000:]
    finally:
        for rank in ranks:
            rank.kill()
