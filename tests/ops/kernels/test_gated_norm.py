"""The fused norm and gate: on a CPU through Triton's interpreter, on a GPU compiled."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmvheat.ops import gated_linear, kernels_available, use_kernels
from mmvheat.ops.kernels import norm_gate

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
pytestmark = pytest.mark.skipif(
    not kernels_available(DEVICE), reason='needs Triton, and a GPU or its interpreter'
)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def arguments(channels: int, dtype=torch.float32, shape=(2, 3, 5)) -> list[Tensor]:
    """Give u and z as the halves of one map, and a weight and a bias."""
    u, z = (1 + torch.randn(*shape, 2 * channels)).to(DEVICE, dtype).chunk(2, dim=-1)
    return [u, z, *torch.randn(2, channels, device=DEVICE).unbind()]


def plain(u: Tensor, z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(u, u.shape[-1:], weight.to(u), bias.to(u), 1e-5) * F.silu(z)


def ours(u: Tensor, z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return norm_gate(u, z, weight, bias, 1e-5)


def error(result: Tensor, truth: Tensor) -> float:
    return ((result.double() - truth).norm() / truth.norm().clamp(min=1e-6)).item()


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('channels', [2, 3, 16, 24, 96])
@pytest.mark.parametrize('shape', [(1, 1, 1), (2, 3, 5), (70,)])
def test_forward_and_gradients(shape, channels, dtype):
    given = arguments(channels, dtype, shape)
    seed = torch.randn(*shape, channels, device=DEVICE).to(dtype)

    def run(function, tensors) -> list[Tensor]:
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        result = function(*leaves)
        return [result, *torch.autograd.grad(result, leaves, seed.to(result.dtype))]

    truth = run(plain, [tensor.double() for tensor in given])
    results, others = run(ours, given), run(plain, given)
    assert [r.dtype for r in results] == [dtype, dtype, dtype, torch.float32, torch.float32]
    for result, other, expected in zip(results, others, truth, strict=True):
        # Of two channels a norm leaves the sign: its gradient is all rounding.
        floor = 1e-4 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
        assert error(result, expected) <= 2 * error(other, expected) + floor


def test_maps_without_a_single_stride_between_tokens():
    u, z, weight, bias = arguments(4)
    u, z = (t.transpose(0, 1) for t in (u, z))
    torch.testing.assert_close(ours(u, z, weight, bias), plain(u, z, weight, bias))
    flipped = u.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    torch.testing.assert_close(ours(flipped, z, weight, bias), plain(u, z, weight, bias))


def test_an_empty_map_keeps_its_shape():
    given = [tensor.requires_grad_() for tensor in arguments(4, shape=(0, 3))]
    result = ours(*given)
    assert result.shape == (0, 3, 4)
    grads = torch.autograd.grad(result.sum(), given[2:])
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in grads)


def test_what_torch_asks_of_an_operator():
    given = [tensor.detach().requires_grad_() for tensor in arguments(4)]
    torch.library.opcheck(norm_gate, (*given, 1e-5))


def test_compiles_without_a_graph_break():
    torch.compiler.reset()
    compiled = torch.compile(ours, fullgraph=True, backend='aot_eager')
    given = [tensor.detach().requires_grad_() for tensor in arguments(4)]
    result, expected = compiled(*given), ours(*given)
    torch.testing.assert_close(result, expected)
    for grad, wanted in zip(
        torch.autograd.grad(result.sum(), given),
        torch.autograd.grad(expected.sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(grad, wanted)


def test_opt_in_and_the_same_gate():
    u, z, weight, bias = arguments(6)
    last = torch.randn(4, 6, device=DEVICE), torch.randn(4, device=DEVICE)
    expected = gated_linear(u, z, weight, bias, 1e-5, *last)
    with use_kernels():
        torch.testing.assert_close(gated_linear(u, z, weight, bias, 1e-5, *last), expected)


def test_shapes_that_do_not_fit_are_refused():
    u, z, weight, bias = arguments(6)
    with pytest.raises(ValueError, match=r'weight and bias \(C,\), got .*\(2, 3, 5, 5\)'):
        ours(u, z[..., :5], weight, bias)
