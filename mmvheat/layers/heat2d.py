"""The heat conduction operator as a layer."""

import torch
from torch import Tensor, nn

from mmvheat.ops import conduct, gated_linear, heat_decay, linear, predict_diffusivity

from .mixers import CosineMixer, check_mixer, make_mixer

__all__ = [
    'FilterOperator2D',
    'Heat2D',
    'HeatVariant2D',
    'Linear',
    'make_operator',
    'operator_around',
]


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
        dwconv: Whether there is the convolution.
    """

    def __init__(self, dim: int, dwconv: bool = True) -> None:
        super().__init__()
        convolution = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim) if dwconv else None
        self.dwconv = convolution or nn.Identity()
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
        freq_embed: Tensor | None = None,
        decay: Tensor | None = None,
        plain: bool | None = None,
    ) -> Tensor:
        """Conduct heat over a map.

        Args:
            x: Map of shape (B, H, W, C).
            freq_embed: Frequency embedding of shape (H, W, C), of the map's size; not used by a
                folded operator, nor by a variant.
            decay: What :meth:`decay` returns for the embedding, if it is known already.
            plain: Whether these and all weights are ordinary tensors, if known, see
                :func:`mmvheat.ops.dispatch.is_plain`.

        Returns:
            Map of shape (B, H, W, C).
        """
        # Views: the blocks' maps are channels-last, a convolution takes channels first.
        x = self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        u, z = self.linear(x, plain).chunk(2, dim=-1)
        u = self.mix(u, freq_embed, decay, plain)
        norm, out = self.out_norm, self.out_linear
        return gated_linear(u, z, norm.weight, norm.bias, norm.eps, out.weight, out.bias, plain)

    def mix(
        self, u: Tensor, freq_embed: Tensor | None, decay: Tensor | None, plain: bool | None
    ) -> Tensor:
        """Conduct the heat (B, H, W, C); the other arguments as of :meth:`forward`."""
        return conduct(u, self.decay_for(u, freq_embed, decay), plain)

    def decay_for(self, x: Tensor, freq_embed: Tensor | None, decay: Tensor | None) -> Tensor:
        """Find the decay (H, W, C) for a map; arguments as of :meth:`forward`."""
        if self.k_exp is not None:
            return self.k_exp
        return self.decay(freq_embed) if decay is None else decay

    def fold(self, freq_embed: Tensor) -> None:
        """Keep the decay for one size of a map, ``k_exp``, instead of what it follows from.

        Args:
            freq_embed: Frequency embedding of shape (H, W, C), of the maps' size.
        """
        with torch.no_grad():
            self.k_exp = nn.Parameter(self.decay(freq_embed), requires_grad=False)
        self.to_k = None


class HeatVariant2D(Heat2D):
    """The operator with a decay, or any other factors of frequencies, that it has itself.

    It needs no frequency embedding from outside.

    Args:
        dim: Channels.
        mixer: What has the factors, of :mod:`mmvheat.layers.mixers`.
        dwconv: Whether there is the convolution.
    """

    def __init__(self, dim: int, mixer: CosineMixer, dwconv: bool = True) -> None:
        super().__init__(dim, dwconv)
        self.to_k = None
        self.mixer = mixer

    def decay_for(self, x: Tensor, freq_embed: Tensor | None, decay: Tensor | None) -> Tensor:
        """Compute the factors (H, W, C) for a map; the embedding and the decay are not used."""
        return self.mixer.spectrum((x.size(1), x.size(2))) if self.k_exp is None else self.k_exp

    def fold_for(self, size: tuple[int, int]) -> None:
        """Keep the factors for one size of a map, ``k_exp``, in the place of the mixer.

        Args:
            size: Height and width of the map.
        """
        with torch.no_grad():
            spectrum = self.mixer.spectrum(size).clone()
        self.k_exp = nn.Parameter(spectrum, requires_grad=False)
        self.mixer = None


class FilterOperator2D(Heat2D):
    """The operator with another filter in the place of conduction, or with none.

    Args:
        dim: Channels.
        mixer: The filter, of :mod:`mmvheat.layers.mixers`.
        dwconv: Whether there is the convolution.
    """

    def __init__(self, dim: int, mixer: nn.Module, dwconv: bool = True) -> None:
        super().__init__(dim, dwconv)
        self.to_k = None
        self.mixer = mixer

    def mix(
        self, u: Tensor, freq_embed: Tensor | None, decay: Tensor | None, plain: bool | None
    ) -> Tensor:
        """Filter a map (B, H, W, C); the embedding and the decay are not used."""
        return self.mixer(u)


def operator_around(dim: int, mixer: nn.Module, dwconv: bool = True) -> Heat2D:
    """Make an operator around a mixer of :mod:`mmvheat.layers.mixers`.

    Args:
        dim: Channels.
        mixer: The mixer.
        dwconv: Whether there is the depth-wise convolution.
    """
    kind = HeatVariant2D if isinstance(mixer, CosineMixer) else FilterOperator2D
    return kind(dim, mixer, dwconv)


def make_operator(
    dim: int,
    size: tuple[int, int],
    operator: str = 'heat',
    diffusivity: str = 'predicted',
    k: float | None = None,
    dwconv: bool = True,
) -> Heat2D:
    """Make the operator of a block: the one place where its variant is chosen.

    Args:
        dim: Channels.
        size: Height and width of the map that learned values are made for.
        operator: As of :func:`.mixers.make_mixer`, like all that follow.
        diffusivity: ``'predicted'`` takes the embedding that its stage has for all blocks.
        k: The number of ``'fixed'``.
        dwconv: Whether there is the depth-wise convolution.

    Raises:
        ValueError: If one is unknown, or they do not belong together.
    """
    check_mixer(operator, diffusivity, k)
    if (operator, diffusivity) == ('heat', 'predicted'):
        return Heat2D(dim, dwconv)
    return operator_around(dim, make_mixer(dim, size, operator, diffusivity, k), dwconv)
