"""The heat conduction operator as a layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvheat.ops import heat_conduction

from .layout import channels_first, channels_last
from .precision import without_autocast

__all__ = ['Heat2D']


class Heat2D(nn.Module):
    """Heat Conduction Operator of vHeat (arXiv 2405.16555, Sec. 3.3 and Fig. 3).

    A depth-wise convolution, a linear layer to the heat u and a gate z, conduction of u with the
    diffusivity predicted from the frequency embedding, and ``linear(norm(u) * silu(z))``.

    Args:
        dim: Channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)
        self.linear = nn.Linear(dim, 2 * dim)
        self.out_norm = nn.LayerNorm(dim)
        self.out_linear = nn.Linear(dim, dim)
        self.to_k = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())

    def diffusivity(self, freq_embed: Tensor) -> Tensor:
        """Predict the diffusivity of every frequency and channel.

        Args:
            freq_embed: Frequency embedding of shape (H, W, C).

        Returns:
            Diffusivity of shape (H, W, C), not negative; at least float32 also under autocast,
            for it is an exponent.
        """
        dtype = torch.promote_types(freq_embed.dtype, torch.float32)
        linear = self.to_k[0]
        with without_autocast(freq_embed.device.type):
            k = F.linear(freq_embed.to(dtype), linear.weight.to(dtype), linear.bias.to(dtype))
            return F.relu(k)

    def forward(self, x: Tensor, freq_embed: Tensor) -> Tensor:
        """Conduct heat over a map.

        Args:
            x: Map of shape (B, H, W, C).
            freq_embed: Frequency embedding of shape (H, W, C), of the map's size.

        Returns:
            Map of shape (B, H, W, C).
        """
        x = channels_last(self.dwconv(channels_first(x)))
        u, z = self.linear(x).chunk(2, dim=-1)
        u = heat_conduction(u, self.diffusivity(freq_embed))
        return self.out_linear(self.out_norm(u) * F.silu(z))
