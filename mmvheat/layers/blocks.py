"""The blocks of vHeat and what stands between them, all on channels-last maps (B, H, W, C)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvheat.ops import mlp
from mmvheat.ops.dispatch import has_open_size, runs_plain
from mmvheat.ops.halving import halve_by_product, halving_by_product_is_faster

from .heat2d import Heat2D

__all__ = [
    'Downsample',
    'DropPath',
    'HalvingConv2d',
    'HeatBlock',
    'Mlp',
    'PatchEmbed',
    'Stem',
    'ToChannelsLast',
]


class ToChannelsLast(nn.Module):
    """A view, as a module that stands in a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        """View (B, C, H, W) as (B, H, W, C); no copy."""
        return x.permute(0, 2, 3, 1)


class HalvingConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 2 whose output is half the map, rounded up.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        bias: Whether to add a learned bias.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, stride=2, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', ceil(H / 2), ceil(W / 2))."""
        if self.bias is None and halving_by_product_is_faster(x, self.weight):
            return halve_by_product(x, self.weight)
        if x.size(3) > 2:
            return super().forward(x)
        # oneDNN 3.10 (torch 2.11, a CPU with AMX) computes bfloat16 maps and gradients wrong where
        # the output has a single column; so compute a second one, of padding, and drop it.
        return super().forward(F.pad(x, (0, 3 - x.size(3))))[..., :1]


class Stem(nn.Module):
    """Two 3x3 convolutions of stride 2, each followed by a LayerNorm, a GELU between.

    Args:
        in_channels: Channels of the image.
        dim: Channels of the first stage.
    """

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.conv1 = HalvingConv2d(in_channels, dim // 2)
        self.norm1 = nn.Sequential(ToChannelsLast(), nn.LayerNorm(dim // 2, eps=1e-6))
        self.conv2 = HalvingConv2d(dim // 2, dim)
        self.norm2 = nn.Sequential(ToChannelsLast(), nn.LayerNorm(dim, eps=1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to (B, ceil(H / 4), ceil(W / 4), dim)."""
        # Cheaper for the three channels of the image than for all those of the first map.
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.gelu(self.norm1(self.conv1(x)))
        return self.norm2(self.conv2(x.permute(0, 3, 1, 2)))


class PatchEmbed(nn.Module):
    """One convolution over patches that do not overlap, then a LayerNorm, as the other stem's.

    Args:
        in_channels: Channels of the image.
        dim: Channels of the first stage.
        patch_size: Side of the patches in pixels.
    """

    def __init__(self, in_channels: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.norm1 = nn.Sequential(ToChannelsLast(), nn.LayerNorm(dim, eps=1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to (B, ceil(H / P), ceil(W / P), dim), padded with zeros."""
        patch = self.conv1.stride[0]
        if has_open_size(x.shape) or x.size(2) % patch or x.size(3) % patch:
            x = F.pad(x, (0, -x.size(3) % patch, 0, -x.size(2) % patch))
        return self.norm1(self.conv1(x))


class Downsample(nn.Sequential):
    """A 3x3 convolution of stride 2 without bias, then a LayerNorm.

    Args:
        in_dim: Channels in.
        out_dim: Channels out.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__(HalvingConv2d(in_dim, out_dim, bias=False), nn.LayerNorm(out_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, in_dim) to (B, ceil(H / 2), ceil(W / 2), out_dim)."""
        conv, norm = self
        return norm(conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class DropPath(nn.Module):
    """Drop the whole residual branch of a sample at random (arXiv 1603.09382).

    Args:
        drop_prob: Probability of dropping a sample's branch while training; the kept ones are
            scaled by ``1 / (1 - drop_prob)``.

    Raises:
        ValueError: If ``drop_prob`` is not in [0, 1).
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        if not 0 <= drop_prob < 1:
            raise ValueError(f'drop_prob is in [0, 1), got {drop_prob}')
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples of ``x`` of shape (B, ...) in training mode."""
        if self.drop_prob == 0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        mask = x.new_empty((x.size(0),) + (1,) * (x.dim() - 1)).bernoulli_(keep)
        return x * mask.div_(keep)

    def extra_repr(self) -> str:
        """Show the probability."""
        return f'drop_prob={self.drop_prob}'


class Mlp(nn.Module):
    """Two point-wise layers with a GELU between.

    The weights are stored as 1x1 convolutions, as published checkpoints have them, and applied to
    the channels-last map.

    Args:
        dim: Channels in and out.
        hidden_dim: Channels between.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden_dim, kernel_size=1)
        self.fc2 = nn.Conv2d(hidden_dim, dim, kernel_size=1)

    def forward(self, x: Tensor, plain: bool | None = None) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C).

        Args:
            x: The map.
            plain: Whether it and the weights are ordinary tensors, if known.
        """
        fc1, fc2 = self.fc1, self.fc2
        return mlp(x, fc1.weight.flatten(1), fc1.bias, fc2.weight.flatten(1), fc2.bias, plain)


class HeatBlock(nn.Module):
    """Heat conduction, then an MLP, each on a residual branch (arXiv 2405.16555, Fig. 3).

    Args:
        dim: Channels.
        mlp_ratio: Hidden channels of the MLP over ``dim``.
        drop_path: Probability of dropping a branch while training.
        post_norm: Normalise a branch's output (small, base) or its input (tiny).
        layer_scale_init_value: Start of the learned scale of each branch; None for no scale.
        op: The operator; None for vHeat's.
    """

    def __init__(
        self,
        dim: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        post_norm: bool = False,
        layer_scale_init_value: float | None = None,
        op: Heat2D | None = None,
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.norm1 = nn.LayerNorm(dim)
        self.op = op or Heat2D(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        if layer_scale_init_value is None:
            self.gamma1 = self.gamma2 = None
        else:
            self.gamma1 = nn.Parameter(torch.full((dim,), float(layer_scale_init_value)))
            self.gamma2 = nn.Parameter(torch.full((dim,), float(layer_scale_init_value)))

    def forward(self, x: Tensor, freq_embed: Tensor | None, decay: Tensor | None = None) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C).

        Args:
            x: Map of shape (B, H, W, C).
            freq_embed: Frequency embedding of shape (H, W, C); not used by a folded operator.
            decay: Decay of shape (H, W, C) that follows from the embedding, if it is known.
        """
        # The one decision for all fused functions of the block.
        plain = runs_plain(self, x, freq_embed, decay)
        if self.post_norm:
            heat = self.op(x, freq_embed, decay, plain)
            x = x + self.drop_path(_scaled_norm(heat, self.norm1, self.gamma1))
            return x + self.drop_path(_scaled_norm(self.mlp(x, plain), self.norm2, self.gamma2))
        heat = self.op(self.norm1(x), freq_embed, decay, plain)
        x = x + self.drop_path(_scaled(heat, self.gamma1))
        return x + self.drop_path(_scaled(self.mlp(self.norm2(x), plain), self.gamma2))


def _scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    """Scale the channels of a branch (B, H, W, C), if it has a layer scale."""
    return x if gamma is None else gamma * x


def _scaled_norm(x: Tensor, norm: nn.LayerNorm, gamma: Tensor | None) -> Tensor:
    """Normalise a branch (B, H, W, C) and scale it in the same pass, keeping one map less."""
    if gamma is None:
        return norm(x)
    weight, bias = norm.weight * gamma, norm.bias * gamma
    return F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)
