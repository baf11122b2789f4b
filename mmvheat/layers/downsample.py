"""Between two stages."""

from torch import Tensor, nn

from .halving_conv import HalvingConv2d
from .layout import channels_first, channels_last

__all__ = ['Downsample']


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
        return norm(channels_last(conv(channels_first(x))))
