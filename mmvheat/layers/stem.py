"""From the image to the first map."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .halving_conv import HalvingConv2d
from .layout import ToChannelsLast, channels_first

__all__ = ['Stem']


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
        return self.norm2(self.conv2(channels_first(x)))
