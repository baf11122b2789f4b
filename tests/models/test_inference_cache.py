"""In eval mode the decays are made once for each size, and are never stale."""

import copy
import io

import pytest
import torch

from mmvheat.layers import Heat2D
from mmvheat.models import VHeat

ARCH = dict(depths=[1, 2], dims=8, post_norm=True, layer_scale_init_value=0.5)


@pytest.fixture
def made(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes of all decays made."""
    made, make = [], Heat2D.decay

    def decay(self, freq_embed):
        made.append(tuple(freq_embed.shape[:2]))
        return make(self, freq_embed)

    monkeypatch.setattr(Heat2D, 'decay', decay)
    return made


def kept(model: VHeat) -> int:
    """How many tensors the model keeps: decays of its three blocks, embeddings of its stages."""
    decays = sum(len(m._decays) for m in model.modules() if isinstance(m, Heat2D))
    return decays + sum(len(stage._fitted) for stage in model.layers)


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
    with torch.autocast('cpu', precision, enabled=precision is not None):
        with mode():
            first = [model(x) for x in inputs]
            made.clear()
            again = [model(x) for x in inputs]
        assert made == []
        for kept, fresh, x in zip(again, first, inputs, strict=True):
            for left, right, expected in zip(kept, fresh, truth(model, x), strict=True):
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
    # mmengine's EMAHook: before_val_epoch writes through .data, then the loop calls eval().
    for parameter in model.parameters():
        parameter.data.copy_(parameter.data + 0.1 * torch.randn_like(parameter))
    model.eval()


def _write_one_embedding(model):
    with torch.no_grad():
        model.freq_embed[1].add_(1.0)


@pytest.mark.parametrize(
    'change',
    [_load, _assign, _train_a_step, _swap_as_ema_does, _write_one_embedding],
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
    assert kept(model) == 3 + 2
    fresh = VHeat(ARCH, img_size=32, out_indices=(0, 1))
    assert model.state_dict().keys() == fresh.state_dict().keys()
    assert kept(copy.deepcopy(model)) == 0
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    check(torch.load(file, weights_only=False), torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize('move', ['double', 'bfloat16', 'cpu'])
def test_a_model_that_is_moved_leaves_nothing_behind(model, move):
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 48))
    assert kept(model) == 3 + 2
    getattr(model, move)()
    assert kept(model) == 0


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
