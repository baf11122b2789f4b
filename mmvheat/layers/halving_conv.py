"""The convolution that halves a map."""

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ['HalvingConv2d']


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
        if x.size(3) > 2:
            return super().forward(x)
        # oneDNN 3.10 (torch 2.11, a CPU with AMX) computes bfloat16 maps and gradients wrong where
        # the output has a single column; so compute a second one, of padding, and drop it.
        return super().forward(F.pad(x, (0, 3 - x.size(3))))[..., :1]
