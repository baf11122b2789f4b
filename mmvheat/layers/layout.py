"""Views between the blocks' channels-last maps and the convolutions' channels-first ones."""

import torch
from torch import Tensor, nn

__all__ = ['ToChannelsLast', 'channels_first', 'channels_last', 'is_channels_last']


def channels_last(x: Tensor) -> Tensor:
    """View (B, C, H, W) as (B, H, W, C); no copy."""
    return x.permute(0, 2, 3, 1)


def channels_first(x: Tensor) -> Tensor:
    """View (B, H, W, C) as (B, C, H, W); no copy, torch's ``channels_last`` memory format."""
    return x.permute(0, 3, 1, 2)


def is_channels_last(x: Tensor) -> bool:
    """Whether (B, C, H, W) lies in memory as (B, H, W, C), and not in both ways at once."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


class ToChannelsLast(nn.Module):
    """:func:`channels_last` as a module, to stand in a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        """View (B, C, H, W) as (B, H, W, C)."""
        return channels_last(x)
