"""Blocks, stem, downsampling, MLP and stochastic depth."""

import pytest
import torch
import torch.nn.functional as F
from saved_tensors import saved_tensors

from mmvheat.layers import Downsample, DropPath, HalvingConv2d, HeatBlock, Mlp, Stem

SIZES = [(1, 1), (1, 9), (2, 3), (7, 300), (16, 16), (77, 101)]


@pytest.mark.parametrize('rate', [0.1, 0.5, 0.9])
def test_drop_path_drops_whole_samples_and_keeps_the_expectation(rate):
    x = torch.ones(20_000, 2, 1, 3)
    y = DropPath(rate)(x)
    kept = y.flatten(1).amax(1) > 0
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - rate)))
    assert not y[~kept].any()
    assert abs(kept.float().mean() - (1 - rate)) < 0.015  # four standard deviations
    assert abs(y.mean() - 1) < 0.1


@pytest.mark.parametrize(('rate', 'training'), [(0.0, True), (0.7, False), (0.0, False)])
def test_drop_path_is_the_identity_when_off(rate, training):
    x = torch.randn(4, 3)
    assert DropPath(rate).train(training)(x) is x


@pytest.mark.parametrize('rate', [-0.1, 1.0, 2])
def test_drop_path_refuses_a_rate_out_of_range(rate):
    with pytest.raises(ValueError, match=rf'\[0, 1\), got {rate}$'):
        DropPath(rate)


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_stem_and_downsample_round_up(height, width):
    ceil = [-(-height // 4), -(-width // 4)]
    assert Stem(3, 8)(torch.randn(2, 3, height, width)).shape == (2, *ceil, 8)
    ceil = [-(-height // 2), -(-width // 2)]
    assert Downsample(4, 6)(torch.randn(2, height, width, 4)).shape == (2, *ceil, 6)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('width', [1, 2, 3, 4])
@pytest.mark.parametrize('height', [1, 2, 9, 75])
def test_halving_a_thin_map_is_a_plain_convolution(height, width, dtype):
    conv = HalvingConv2d(8, 16)
    x = torch.randn(2, 8, height, width)
    y = F.conv2d(x, conv.weight, conv.bias, stride=2, padding=1)
    seed = torch.randn_like(y)
    grads = torch.autograd.grad(y, conv.weight, seed)[0]
    thin = conv.to(dtype)(x.to(dtype))
    close = dict(atol=1e-5, rtol=1e-5) if dtype == torch.float32 else dict(atol=0.1, rtol=0.02)
    torch.testing.assert_close(thin.float(), y.detach(), **close)
    thin_grads = torch.autograd.grad(thin, conv.weight, seed.to(dtype))[0].float()
    torch.testing.assert_close(thin_grads, grads, atol=10 * close['atol'], rtol=close['rtol'])


@pytest.mark.parametrize('module', [Stem(3, 8), Downsample(3, 8)], ids=lambda m: type(m).__name__)
def test_stem_and_downsample_end_in_a_norm_of_the_right_eps(module):
    norm = module.norm2[1] if isinstance(module, Stem) else module[1]
    assert norm.eps == (1e-6 if isinstance(module, Stem) else 1e-5)
    x = torch.randn(2, 3, 12, 16)
    y = module(x if isinstance(module, Stem) else x.permute(0, 2, 3, 1))
    torch.testing.assert_close(y.mean(-1), torch.zeros_like(y[..., 0]), atol=1e-5, rtol=0)


def test_mlp_is_two_point_wise_convolutions():
    mlp, x = Mlp(6, 10), torch.randn(2, 5, 4, 6)
    by_convolution = mlp.fc2(F.gelu(mlp.fc1(x.permute(0, 3, 1, 2)))).permute(0, 2, 3, 1)
    torch.testing.assert_close(mlp(x), by_convolution, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize('scale', [None, 0.25])
@pytest.mark.parametrize('post_norm', [False, True])
def test_a_block_is_two_residual_branches(post_norm, scale):
    block = HeatBlock(6, mlp_ratio=3.0, post_norm=post_norm, layer_scale_init_value=scale)
    learned = dict(block.named_parameters())
    assert {name for name in learned if 'gamma' in name} == (
        {'gamma1', 'gamma2'} if scale else set()
    )
    for name, parameter in learned.items():
        if 'norm' in name or 'gamma' in name:
            torch.nn.init.normal_(parameter)
    x, embed = torch.randn(2, 5, 4, 6), torch.randn(5, 4, 6)
    assert block.mlp.fc1.out_channels == 18

    gamma1, gamma2 = (block.gamma1, block.gamma2) if scale else (1, 1)
    heat = block.norm1(block.op(x, embed)) if post_norm else block.op(block.norm1(x), embed)
    after = x + gamma1 * heat
    feed = block.norm2(block.mlp(after)) if post_norm else block.mlp(block.norm2(after))
    spelled_out = after + gamma2 * feed
    torch.testing.assert_close(block(x, embed), spelled_out)

    seed = torch.randn_like(x)
    grads = torch.autograd.grad(block(x, embed), list(learned.values()), seed)
    wanted = torch.autograd.grad(spelled_out, list(learned.values()), seed)
    for name, grad, want in zip(learned, grads, wanted, strict=True):
        torch.testing.assert_close(
            grad, want, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f'{n}: {m}'
        )


def test_a_layer_scale_behind_a_norm_keeps_no_map():
    def kept(scale: float | None) -> int:
        """Bytes that the backward pass of a block keeps in maps."""
        block = HeatBlock(6, post_norm=True, layer_scale_init_value=scale)
        x, embed = torch.randn(2, 5, 4, 6), torch.randn(5, 4, 6)
        return sum(t.nbytes for t in saved_tensors(lambda: block(x, embed)) if t.dim() == 4)

    assert kept(0.5) == kept(None) > 0


def test_a_layer_scale_of_zero_makes_the_identity():
    block = HeatBlock(4, post_norm=True, layer_scale_init_value=0)
    x = torch.randn(1, 3, 3, 4)
    assert torch.equal(block(x, torch.randn(3, 3, 4)), x)


def test_drop_path_drops_branches_not_the_trunk():
    block = HeatBlock(4, drop_path=0.5)
    x, embed = torch.randn(64, 3, 2, 4), torch.randn(3, 2, 4)
    same = (block(x, embed) == x).flatten(1).all(1)
    assert 0 < same.sum() < 64, 'a quarter of the samples lose both branches'
    assert not (block.eval()(x, embed) == x).flatten(1).all(1).any()


@pytest.mark.parametrize('post_norm', [False, True])
def test_block_under_autocast_trains(post_norm):
    block = HeatBlock(8, drop_path=0.2, post_norm=post_norm, layer_scale_init_value=1e-5)
    x = torch.randn(2, 9, 7, 8, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16):
        y = block(x, torch.randn(9, 7, 8))
    y.float().square().mean().backward()
    grads = [x.grad, *(p.grad for p in block.parameters())]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)
    assert all(grad.dtype == torch.float32 for grad in grads)
