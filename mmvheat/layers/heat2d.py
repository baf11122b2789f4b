"""The heat conduction operator as a layer."""

import torch
from torch import Tensor, nn

from mmvheat.ops import conduct, gated_linear, heat_decay, linear, predict_diffusivity

__all__ = ['Heat2D', 'Linear']


class Linear(nn.Linear):
    """:class:`torch.nn.Linear`, computed by :func:`mmvheat.ops.linear`."""

    def forward(self, x: Tensor, plain: bool | None = None) -> Tensor:
        """Map (..., in_features) to (..., out_features).

        Args:
            x: The input.
            plain: Whether it and the weights are ordinary tensors, if known.
        """
        return linear(x, self.weight, self.bias, plain)


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
        self.linear = Linear(dim, 2 * dim)
        self.out_norm = nn.LayerNorm(dim)
        self.out_linear = nn.Linear(dim, dim)
        self.to_k = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())
        self.register_parameter('k_exp', None)

    def diffusivity(self, freq_embed: Tensor) -> Tensor:
        """Predict the diffusivity of every frequency and channel.

        Args:
            freq_embed: Frequency embedding of shape (H, W, C).

        Returns:
            Diffusivity of shape (H, W, C), not negative, at least float32.
        """
        return predict_diffusivity(freq_embed, self.to_k[0].weight, self.to_k[0].bias)

    def decay(self, freq_embed: Tensor) -> Tensor:
        """Predict what conduction leaves of every frequency and channel.

        Args:
            freq_embed: Frequency embedding of shape (H, W, C).

        Returns:
            Decay of shape (H, W, C) in [0, 1], at least float32.
        """
        return heat_decay(self.diffusivity(freq_embed))

    def forward(
        self,
        x: Tensor,
        freq_embed: Tensor | None,
        decay: Tensor | None = None,
        plain: bool | None = None,
    ) -> Tensor:
        """Conduct heat over a map.

        Args:
            x: Map of shape (B, H, W, C).
            freq_embed: Frequency embedding of shape (H, W, C), of the map's size; not used by a
                folded operator.
            decay: What :meth:`decay` returns for the embedding, if it is known already.
            plain: Whether these and all weights are ordinary tensors, if known, see
                :func:`mmvheat.ops.dispatch.is_plain`.

        Returns:
            Map of shape (B, H, W, C).
        """
        # Views: the blocks' maps are channels-last, a convolution takes channels first.
        x = self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        u, z = self.linear(x, plain).chunk(2, dim=-1)
        if self.k_exp is not None:
            decay = self.k_exp
        elif decay is None:
            decay = self.decay(freq_embed)
        u = conduct(u, decay, plain)
        norm, out = self.out_norm, self.out_linear
        return gated_linear(u, z, norm.weight, norm.bias, norm.eps, out.weight, out.bias, plain)

    def fold(self, freq_embed: Tensor) -> None:
        """Keep the decay for one size of a map, ``k_exp``, instead of what it follows from.

        Args:
            freq_embed: Frequency embedding of shape (H, W, C), of the maps' size.
        """
        with torch.no_grad():
            self.k_exp = nn.Parameter(self.decay(freq_embed), requires_grad=False)
        self.to_k = None
