"""One stage of vHeat."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmvheat.layers import Downsample, HeatBlock
from mmvheat.layers.derived_cache import CachesDerived, DerivedCache, is_cacheable
from mmvheat.ops import resize_freq_embed

from .arch import VHeatArch

__all__ = ['VHeatStage']

# Of each stage, for resized embeddings: as much as two operators keep of decays.
_MAX_EMBED_BYTES = 96 * 2**20


class VHeatStage(CachesDerived, nn.ModuleList):
    """The blocks of one stage and, but for the last stage, the downsampling behind them.

    Args:
        dim: Channels.
        drop_path_rates: Stochastic depth rate of every block; their number is the depth.
        out_dim: Channels of the next stage; None for the last one.
        arch: Architecture, for what all blocks share.
        with_cp: Recompute the blocks' activations in the backward pass.
    """

    def __init__(
        self,
        dim: int,
        drop_path_rates: Sequence[float],
        out_dim: int | None,
        arch: VHeatArch,
        with_cp: bool,
    ) -> None:
        super().__init__(
            HeatBlock(
                dim,
                mlp_ratio=arch.mlp_ratio,
                drop_path=rate,
                post_norm=arch.post_norm,
                layer_scale_init_value=arch.layer_scale_init_value,
            )
            for rate in drop_path_rates
        )
        self.depth = len(drop_path_rates)
        self.with_cp = with_cp
        self._fitted = DerivedCache(_MAX_EMBED_BYTES)
        if out_dim is not None:
            self.append(Downsample(dim, out_dim))

    def forward(self, x: Tensor, freq_embed: Tensor | None) -> Tensor:
        """Run the blocks on a map.

        Args:
            x: Map of shape (B, H, W, C).
            freq_embed: Frequency embedding of shape (H', W', C), fitted to the map if it differs;
                not used by a folded stage.

        Returns:
            Map of shape (B, H, W, C).
        """
        if freq_embed is not None:
            freq_embed = self._fit(freq_embed, (x.size(1), x.size(2)))
        for block in self.blocks():
            if self.with_cp and torch.is_grad_enabled():
                x = checkpoint(block, x, freq_embed, use_reentrant=False)
            else:
                x = block(x, freq_embed)
        return x

    def blocks(self) -> Iterator[HeatBlock]:
        """Iterate over the blocks, without the downsampling behind them."""
        return islice(self, self.depth)

    def fold(self, freq_embed: Tensor) -> None:
        """Fold the operators of all blocks, see :meth:`Heat2D.fold`."""
        for block in self.blocks():
            block.op.fold(freq_embed)

    def unfold(self) -> None:
        """Undo :meth:`fold`."""
        for block in self.blocks():
            block.op.unfold()

    def forget_unfolded(self) -> None:
        """Give up what :meth:`unfold` needs."""
        for block in self.blocks():
            block.op.forget_unfolded()

    def _fit(self, freq_embed: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize an embedding; in eval mode without gradients, once for each size."""
        if freq_embed.shape[:2] == size:
            return freq_embed
        if self.training or torch.is_grad_enabled() or not is_cacheable([freq_embed]):
            return resize_freq_embed(freq_embed, size)
        key = (size, freq_embed.dtype, freq_embed.device)
        return self._fitted.get(key, [freq_embed], lambda: resize_freq_embed(freq_embed, size))

    def downsample(self, x: Tensor) -> Tensor:
        """Halve the map for the next stage: (B, H, W, C) to (B, ceil(H/2), ceil(W/2), C')."""
        return self[self.depth](x)
