"""The fused conduction: on a CPU through Triton's interpreter, on a GPU compiled."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from mmvheat.layers import Heat2D
from mmvheat.ops import conduct, dct_basis, heat, heat_decay, kernels_available, use_kernels
from mmvheat.ops.kernels import fits_kernels, heat_conduct
from mmvheat.ops.reference import dct2d_reference, idct2d_reference

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
pytestmark = pytest.mark.skipif(
    not kernels_available(DEVICE), reason='needs Triton, and a GPU or its interpreter'
)
# The first ones stay on the chip whole; of the others one axis does.
SIZES = [(1, 1), (7, 7), (5, 9), (14, 14), (17, 3), (28, 20), (33, 20), (20, 33), (70, 5), (3, 130)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def times(dtype: torch.dtype) -> int:
    """How often plain torch's error is allowed; Triton's interpreter cuts bfloat16, unrounded."""
    return 4 if DEVICE == 'cpu' and dtype == torch.bfloat16 else 2


def maps(height, width, channels, dtype=torch.float32, batch=2) -> tuple[Tensor, Tensor]:
    x = (1 + torch.randn(batch, height, width, channels)).to(DEVICE, dtype)
    return x, heat_decay(0.2 * torch.rand(height, width, channels)).to(DEVICE)


def plain(x: Tensor, decay: Tensor) -> Tensor:
    rows, columns = (dct_basis(n, x.dtype, x.device) for n in x.shape[1:3])
    x = torch.einsum('ni,mj,bijc->bnmc', rows, columns, x) * decay.to(x.dtype)
    return torch.einsum('ni,mj,bnmc->bijc', rows, columns, x)


def error(result: Tensor, truth: Tensor) -> float:
    return ((result.double().cpu() - truth.cpu()).norm() / truth.norm()).item()


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('channels', [1, 3, 24, 40])
@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_forward(height, width, channels, dtype):
    x, decay = maps(height, width, channels, dtype)
    truth = plain(x.double(), decay.double())
    result = heat_conduct(x, decay)
    assert result.dtype == dtype and result.is_contiguous()
    if dtype == torch.float32:
        assert error(result, truth) < 1e-6
    else:
        assert error(result, truth) <= times(dtype) * error(plain(x, decay), truth)


def test_the_truth_is_the_reference():
    x, decay = maps(5, 9, 3)
    reference = idct2d_reference(dct2d_reference(x) * decay.double().cpu())
    assert error(plain(x.double(), decay.double()), reference) < 1e-12
    assert error(heat_conduct(x, decay), reference) < 1e-6


@pytest.mark.parametrize(('height', 'width'), [(7, 7), (40, 6)])
def test_half_of_the_channels_is_read_in_place(height, width):
    x, decay = maps(height, width, 6)
    half, kept = x[..., 3:], decay[..., :3]
    contiguous = heat_conduct(half.contiguous(), kept.contiguous())
    torch.testing.assert_close(heat_conduct(half, kept), contiguous)
    flipped = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    torch.testing.assert_close(heat_conduct(flipped, decay), heat_conduct(x, decay))


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize(('height', 'width'), [(1, 1), (5, 9), (17, 3), (3, 40)])
def test_gradients(height, width, dtype):
    x, decay = maps(height, width, 5, dtype)
    decay, seed = decay.to(dtype), torch.randn_like(x)

    def grads(function, *leaves: Tensor) -> list[Tensor]:
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        result = function(*leaves)
        return list(torch.autograd.grad(result, leaves, seed.to(result.dtype)))

    truth = grads(plain, x.double(), decay.double())
    others = grads(plain, x, decay)
    for grad, other, expected in zip(grads(heat_conduct, x, decay), others, truth, strict=True):
        assert grad.dtype == dtype
        allowed = 1e-6 if dtype == torch.float32 else times(dtype) * error(other, expected)
        assert error(grad, expected) <= allowed


def test_small_float16_gradients_do_not_vanish():
    x, decay = maps(28, 28, 2, torch.float16)
    x.requires_grad_()
    seed = 1e-5 * torch.randn_like(x)
    (grad,) = torch.autograd.grad(heat_conduct(x, decay), x, seed)
    truth = plain(seed.double(), decay.double())
    assert error(grad, truth) < 0.03


def test_what_torch_asks_of_an_operator():
    x, decay = maps(5, 6, 3)
    torch.library.opcheck(heat_conduct, (x.requires_grad_(), decay.requires_grad_()))
    torch.library.opcheck(heat_conduct, maps(40, 3, 2))


def test_compiles_without_a_graph_break():
    torch.compiler.reset()
    compiled = torch.compile(heat_conduct, fullgraph=True, backend='aot_eager')
    x, decay = maps(6, 9, 4)
    x.requires_grad_(), decay.requires_grad_()
    result, expected = compiled(x, decay), heat_conduct(x, decay)
    torch.testing.assert_close(result, expected)
    for grad, wanted in zip(
        torch.autograd.grad(result.sum(), (x, decay)),
        torch.autograd.grad(expected.sum(), (x, decay)),
        strict=True,
    ):
        torch.testing.assert_close(grad, wanted)


def test_opt_in(monkeypatch):
    x, decay = maps(7, 7, 8, torch.bfloat16)
    assert fits_kernels(x) and not fits_kernels(x.float())
    fused, taken = heat_conduct, []
    monkeypatch.setattr(heat.kernels, 'heat_conduct', lambda *args: taken.append(1) or fused(*args))
    for enabled in (None, True, False):
        context = nullcontext() if enabled is None else use_kernels(enabled)
        with context:
            warm = conduct(x, decay)
        assert bool(taken) == bool(enabled)
        if enabled:
            assert torch.equal(warm, heat_conduct(x, decay.bfloat16()))
        taken.clear()
    with use_kernels(), use_kernels(False):
        conduct(x, decay)
    assert not taken


@pytest.mark.parametrize('shape', [(1, 200, 3, 2), (0, 4, 4, 2)])
def test_what_does_not_fit_is_left_to_plain_torch(shape):
    x, decay = torch.randn(shape, device=DEVICE).bfloat16(), torch.ones(shape[1:], device=DEVICE)
    assert not fits_kernels(x)
    expected = conduct(x, decay)
    with use_kernels():
        assert torch.equal(conduct(x, decay), expected)
    with pytest.raises(ValueError, match='heat_conduct wants x'):
        heat_conduct(x, decay)


def test_mistakes_get_one_line():
    with pytest.raises(ValueError, match=r'got \(1, 4, 5, 2\) and \(5, 4, 2\)$'):
        heat_conduct(torch.zeros(1, 4, 5, 2), torch.zeros(5, 4, 2))
    with pytest.raises(ValueError, match='got float64'):
        heat_conduct(torch.zeros(1, 4, 5, 2).double(), torch.zeros(4, 5, 2))


@pytest.mark.parametrize('recorded', [False, True])
def test_a_layer_with_kernels_equals_one_without(recorded):
    layer = Heat2D(8).to(DEVICE)
    x, embed = torch.randn(2, 9, 12, 8, device=DEVICE), torch.randn(9, 12, 8, device=DEVICE)

    def run() -> list[Tensor]:
        with torch.autocast(DEVICE, torch.bfloat16), torch.set_grad_enabled(recorded):
            out = layer(x, embed)
        grads = (
            torch.autograd.grad(out.float().square().sum(), layer.parameters()) if recorded else ()
        )
        return [out, *grads]

    expected = run()
    with use_kernels():
        results = run()
    for result, wanted in zip(results, expected, strict=True):
        assert error(result, wanted.double()) < 0.03
