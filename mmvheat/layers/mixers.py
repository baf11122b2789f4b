"""What may stand in the place of vHeat's heat conduction: its ablations, and learned filters.

Each mixes the positions of a map (B, H, W, C), every channel for itself. All but the Fourier filter
and the identity multiply each frequency of the cosine transform by a number, their spectrum.
"""

import math

import torch
from torch import Tensor, nn

from mmvheat.ops import (
    conduct,
    filter_globally,
    given_diffusivity,
    heat_decay,
    predict_diffusivity,
    resize_freq_embed,
    resize_global_filter,
)

__all__ = [
    'DIFFUSIVITIES',
    'OPERATORS',
    'CosineMixer',
    'DctFilter',
    'GivenDiffusivity',
    'GlobalFilter',
    'NoMixing',
    'PredictedDiffusivity',
    'check_mixer',
    'make_mixer',
]

OPERATORS = ('heat', 'global_filter', 'dct_filter', 'identity')
DIFFUSIVITIES = ('predicted', 'learned', 'shared', 'fixed')


class CosineMixer(nn.Module):
    """A mixer that multiplies the cosine transform of a map by a spectrum, for any size of it."""

    def spectrum(self, size: tuple[int, int]) -> Tensor:
        """Compute the factor of every frequency and channel.

        Args:
            size: Height and width of the map.

        Returns:
            Spectrum of shape (H, W, C).
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Mix a map (B, H, W, C)."""
        return conduct(x, self.spectrum((x.size(1), x.size(2))))


class PredictedDiffusivity(CosineMixer):
    """Heat conduction as in vHeat, with a frequency embedding of its own.

    Args:
        dim: Channels.
        size: Height and width of the map that the embedding is made for.
    """

    def __init__(self, dim: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.freq_embed = nn.Parameter(torch.empty(*size, dim))
        self.to_k = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())
        nn.init.trunc_normal_(self.freq_embed, std=0.02)
        nn.init.trunc_normal_(self.to_k[0].weight, std=0.02)
        nn.init.zeros_(self.to_k[0].bias)

    def spectrum(self, size: tuple[int, int]) -> Tensor:
        """Compute the decay (H, W, C) of a map of this height and width."""
        embed = resize_freq_embed(self.freq_embed, size)
        return heat_decay(predict_diffusivity(embed, self.to_k[0].weight, self.to_k[0].bias))


class GivenDiffusivity(CosineMixer):
    """Heat conduction whose diffusivity is learned or fixed itself, not predicted.

    ``k`` is what the rectifier of the predicted one would get: the diffusivity is ``relu(k)``.

    Args:
        dim: Channels.
        size: Height and width of the map that ``'learned'`` has its values for.
        kind: ``'learned'``, a value for each frequency and channel (H, W, C); ``'shared'``, one for
            each channel (C,); ``'fixed'``, one for all (), which is not trained.
        k: The value of ``'fixed'``.
    """

    def __init__(self, dim: int, size: tuple[int, int], kind: str, k: float | None = None) -> None:
        super().__init__()
        self.dim = dim
        if kind == 'fixed':
            self.register_buffer('k', torch.tensor(float(k)))
            return
        self.k = nn.Parameter(torch.empty(*size, dim) if kind == 'learned' else torch.empty(dim))
        # Of the embeddings' size, and positive: below zero the rectifier passes no gradient.
        nn.init.trunc_normal_(self.k, std=0.02)
        with torch.no_grad():
            self.k.abs_()

    def diffusivity(self, size: tuple[int, int], mode: str = 'bicubic') -> Tensor:
        """Fit the diffusivity to a map, see :func:`mmvheat.ops.given_diffusivity`."""
        return given_diffusivity(self.k, size, self.dim, mode)

    def spectrum(self, size: tuple[int, int]) -> Tensor:
        """Compute the decay (H, W, C) of a map of this height and width."""
        return heat_decay(self.diffusivity(size))


class DctFilter(CosineMixer):
    """A learned real factor for each frequency of the cosine transform, of any sign.

    Args:
        dim: Channels.
        size: Height and width of the map that it has its values for.
    """

    def __init__(self, dim: int, size: tuple[int, int]) -> None:
        super().__init__()
        # Near the identity, as heat conduction starts.
        self.dct_filter = nn.Parameter(torch.empty(*size, dim))
        nn.init.trunc_normal_(self.dct_filter, mean=1.0, std=0.02, a=-1.0, b=3.0)

    def spectrum(self, size: tuple[int, int]) -> Tensor:
        """Fit the factors to a map of this height and width, (H, W, C)."""
        return resize_freq_embed(self.dct_filter, size)


class GlobalFilter(nn.Module):
    """A learned complex factor for each frequency of the Fourier transform, as in GFNet.

    Args:
        dim: Channels.
        size: Height and width of the map that it has its values for.
    """

    def __init__(self, dim: int, size: tuple[int, int]) -> None:
        super().__init__()
        # Near the identity, as heat conduction starts; GFNet's starts from the noise alone.
        self.global_filter = nn.Parameter(torch.empty(size[0], size[1] // 2 + 1, dim, 2))
        nn.init.trunc_normal_(self.global_filter, std=0.02)
        with torch.no_grad():
            self.global_filter[..., 0] += 1

    def forward(self, x: Tensor) -> Tensor:
        """Mix a map (B, H, W, C)."""
        return filter_globally(x, resize_global_filter(self.global_filter, tuple(x.shape[1:3])))


class NoMixing(nn.Module):
    """The identity: positions are mixed by the depth-wise convolution alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``, a map of any shape."""
        return x


def check_mixer(operator: str, diffusivity: str, k: float | None) -> None:
    """Check that the three are known and belong together, see :func:`make_mixer`.

    Raises:
        ValueError: If they do not.
    """
    if operator not in OPERATORS:
        raise ValueError(f'operator is one of {", ".join(OPERATORS)}, got {operator!r}')
    if diffusivity not in DIFFUSIVITIES:
        raise ValueError(f'diffusivity is one of {", ".join(DIFFUSIVITIES)}, got {diffusivity!r}')
    if operator != 'heat' and diffusivity != 'predicted':
        raise ValueError(
            f"only operator='heat' has a diffusivity, got diffusivity={diffusivity!r} with "
            f'operator={operator!r}: leave one of them out'
        )
    if diffusivity != 'fixed':
        if k is not None:
            raise ValueError(
                f"k is the number of diffusivity='fixed', got k={k!r} with "
                f'diffusivity={diffusivity!r}: leave k out, or fix the diffusivity'
            )
        return
    is_number = isinstance(k, int | float) and not isinstance(k, bool)
    if not is_number or not 0 <= k < math.inf:
        raise ValueError(f"diffusivity='fixed' needs k, a number from 0, got k={k!r}")


def make_mixer(
    dim: int,
    size: tuple[int, int],
    operator: str = 'heat',
    diffusivity: str = 'predicted',
    k: float | None = None,
) -> nn.Module:
    """Make a mixer of maps (B, H, W, C).

    Args:
        dim: Channels.
        size: Height and width of the map that learned values are made for.
        operator: ``'heat'``, ``'global_filter'``, ``'dct_filter'`` or ``'identity'``.
        diffusivity: Of heat: ``'predicted'``, ``'learned'``, ``'shared'`` or ``'fixed'``.
        k: The number of ``'fixed'``.

    Raises:
        ValueError: If one is unknown, or they do not belong together.
    """
    check_mixer(operator, diffusivity, k)
    if operator == 'heat':
        if diffusivity == 'predicted':
            return PredictedDiffusivity(dim, size)
        return GivenDiffusivity(dim, size, diffusivity, k)
    if operator == 'dct_filter':
        return DctFilter(dim, size)
    return GlobalFilter(dim, size) if operator == 'global_filter' else NoMixing()
