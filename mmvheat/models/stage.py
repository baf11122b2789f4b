"""One stage of vHeat."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmvheat.layers import Downsample, HeatBlock
from mmvheat.layers.derived_cache import Generation
from mmvheat.ops import heat_decay, predict_diffusivity, resize_freq_embed
from mmvheat.ops.precision import compute_dtype

from .arch import VHeatArch

__all__ = ['StageDecays', 'VHeatStage']


@dataclass(frozen=True)
class StageDecays:
    """The decays that are kept for one stage.

    Attributes:
        generation: Where they are kept.
        stage: Index of the stage.
        sources: The generation's copy of what :meth:`VHeatStage.decay_sources` returned.
    """

    generation: Generation
    stage: int
    sources: Sequence[Tensor]

    def of(self, x: Tensor) -> Iterator[Tensor]:
        """Iterate over the decays (H, W, C) of all blocks for a map (B, H, W, C)."""
        size, dtype = tuple(x.shape[1:3]), compute_dtype(x)
        embed, *weights = self.sources
        fitted: list[Tensor] = []

        for block, (weight, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):

            def make(weight: Tensor = weight, bias: Tensor = bias) -> Tensor:
                if not fitted:
                    fitted.append(resize_freq_embed(embed, size))
                return heat_decay(predict_diffusivity(fitted[0], weight, bias)).to(dtype)

            yield self.generation.get((self.stage, block, size, dtype), make)


class VHeatStage(nn.ModuleList):
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
        if out_dim is not None:
            self.append(Downsample(dim, out_dim))

    def forward(
        self, x: Tensor, freq_embed: Tensor | None, kept: StageDecays | None = None
    ) -> Tensor:
        """Run the blocks on a map.

        Args:
            x: Map of shape (B, H, W, C).
            freq_embed: Frequency embedding of shape (H', W', C), fitted to the map if it differs;
                not used by a folded stage.
            kept: Decays that are kept for the embedding and the blocks' weights; None to compute
                them.

        Returns:
            Map of shape (B, H, W, C).
        """
        if kept is None and freq_embed is not None:
            freq_embed = resize_freq_embed(freq_embed, (x.size(1), x.size(2)))
        decays = repeat(None) if kept is None else kept.of(x)
        for block, decay in zip(self.blocks(), decays, strict=False):
            if self.with_cp and torch.is_grad_enabled():
                x = checkpoint(block, x, freq_embed, decay, use_reentrant=False)
            else:
                x = block(x, freq_embed, decay)
        return x

    def blocks(self) -> Iterator[HeatBlock]:
        """Iterate over the blocks, without the downsampling behind them."""
        return islice(self, self.depth)

    def decay_sources(self, freq_embed: Tensor) -> list[Tensor] | None:
        """List what the blocks' decays follow from; None where a weight is not whole.

        A sharding wrapper leaves a process with flat pieces of the weights.

        Args:
            freq_embed: Frequency embedding of shape (H, W, C).

        Returns:
            The embedding, then weight and bias of each block's ``to_k``.
        """
        dim, sources = freq_embed.size(-1), [freq_embed]
        for block in self.blocks():
            weight, bias = block.op.to_k[0].weight, block.op.to_k[0].bias
            if weight.shape != (dim, dim) or bias.shape != (dim,):
                return None
            sources += weight, bias
        return sources if freq_embed.dim() == 3 else None

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

    def downsample(self, x: Tensor) -> Tensor:
        """Halve the map for the next stage: (B, H, W, C) to (B, ceil(H/2), ceil(W/2), C')."""
        return self[self.depth](x)
