"""The feed-forward half of a block."""

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ['Mlp']


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

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = F.linear(x, self.fc1.weight.flatten(1), self.fc1.bias)
        x = F.gelu(x)
        return F.linear(x, self.fc2.weight.flatten(1), self.fc2.bias)
