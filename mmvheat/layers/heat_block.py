"""One block of vHeat."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .drop_path import DropPath
from .heat2d import Heat2D
from .mlp import Mlp

__all__ = ['HeatBlock']


class HeatBlock(nn.Module):
    """Heat conduction, then an MLP, each on a residual branch (arXiv 2405.16555, Fig. 3).

    Args:
        dim: Channels.
        mlp_ratio: Hidden channels of the MLP over ``dim``.
        drop_path: Probability of dropping a branch while training.
        post_norm: Normalise a branch's output (small, base) or its input (tiny).
        layer_scale_init_value: Start of the learned scale of each branch; None for no scale.
    """

    def __init__(
        self,
        dim: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        post_norm: bool = False,
        layer_scale_init_value: float | None = None,
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.norm1 = nn.LayerNorm(dim)
        self.op = Heat2D(dim)
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
        if self.post_norm:
            heat = self.op(x, freq_embed, decay)
            x = x + self.drop_path(_scaled_norm(heat, self.norm1, self.gamma1))
            return x + self.drop_path(_scaled_norm(self.mlp(x), self.norm2, self.gamma2))
        heat = self.op(self.norm1(x), freq_embed, decay)
        x = x + self.drop_path(_scaled(heat, self.gamma1))
        return x + self.drop_path(_scaled(self.mlp(self.norm2(x)), self.gamma2))


def _scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    """Scale the channels of a branch (B, H, W, C), if it has a layer scale."""
    return x if gamma is None else gamma * x


def _scaled_norm(x: Tensor, norm: nn.LayerNorm, gamma: Tensor | None) -> Tensor:
    """Normalise a branch (B, H, W, C) and scale it in the same pass, keeping one map less."""
    if gamma is None:
        return norm(x)
    weight, bias = norm.weight * gamma, norm.bias * gamma
    return F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)
