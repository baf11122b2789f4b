"""The feed-forward half of a block."""

from torch import Tensor, nn

from mmvheat.ops import mlp

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
        fc1, fc2 = self.fc1, self.fc2
        return mlp(x, fc1.weight.flatten(1), fc1.bias, fc2.weight.flatten(1), fc2.bias)
