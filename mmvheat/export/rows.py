"""vHeat's blocks on matrices, a row a position: the form that other runtimes compute fastest.

``docs/benchmarks.md`` says what it saves. The matrices of a batch are not joined to one of two
dimensions: with a few dozen channels and four positions OpenVINO 2026.4 crashes on that.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvheat.layers import Heat2D, HeatBlock
from mmvheat.models import VHeat

__all__ = ['RowBlock', 'RowHeat2D', 'RowNorm', 'use_rows']


class RowNorm(nn.LayerNorm):
    """A norm behind a convolution: between it and a norm of the map OpenVINO copies the map twice.

    Args:
        norm: The norm; its weights are used, not copied.
    """

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__(norm.normalized_shape, eps=norm.eps)
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a map (B, H, W, C)."""
        return super().forward(x.flatten(1, 2)).view(x.shape)


class RowHeat2D(nn.Module):
    """The operator with a linear layer each for heat and gate: then there is nothing to split.

    Args:
        op: The operator; its weights are used, but for those of the linear layer, which it loses.
        size: Height and width of the map.
    """

    def __init__(self, op: Heat2D, size: tuple[int, int]) -> None:
        super().__init__()
        self.to_heat, self.to_gate = _halves(op.linear)
        op.linear = None
        self.op = op
        self.size = size

    def forward(
        self, x: Tensor, freq_embed: Tensor | None, decay: Tensor | None, plain: bool
    ) -> Tensor:
        """Map (B, H W, C) to (B, H W, C); the other arguments as of :meth:`Heat2D.forward`."""
        op = self.op
        x = op.dwconv(self._as_map(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2)
        heat = op.mix(self._as_map(self.to_heat(x)), freq_embed, decay, plain).flatten(1, 2)
        return op.out_linear(op.out_norm(heat) * F.silu(self.to_gate(x)))

    def _as_map(self, x: Tensor) -> Tensor:
        return x.unflatten(1, self.size)


class RowBlock(nn.Module):
    """A block whose map is a matrix for all but the depth-wise convolution and conduction.

    Args:
        block: The block; its operator is replaced.
        size: Height and width of the map.
    """

    def __init__(self, block: HeatBlock, size: tuple[int, int]) -> None:
        super().__init__()
        block.op = RowHeat2D(block.op, size)
        self.block = block

    def forward(self, x: Tensor, freq_embed: Tensor | None, decay: Tensor | None = None) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C); the other arguments as of :class:`HeatBlock`."""
        return self.block(x.flatten(1, 2), freq_embed, decay).view(x.shape)


def use_rows(backbone: VHeat, size: tuple[int, int]) -> None:
    """Give a backbone these forms of its parts, in-place; its weights then have other names.

    Args:
        backbone: The backbone in eval mode, folded for the size if it has decays.
        size: Height and width of the images.
    """
    for i, stage in enumerate(backbone.layers):
        for j, block in enumerate(stage.blocks()):
            stage[j] = RowBlock(block, backbone.map_size(size, i))
        if len(stage) > stage.depth:
            _use_row_norms(stage[-1])
    _use_row_norms(backbone.patch_embed)


def _use_row_norms(part: nn.Module) -> None:
    for module in list(part.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.LayerNorm):
                setattr(module, name, RowNorm(child))


@torch.no_grad()
def _halves(linear: nn.Linear) -> list[nn.Linear]:
    """Divide a linear layer into two, with half of its outputs each."""
    halves = []
    for weight, bias in zip(linear.weight.chunk(2), linear.bias.chunk(2), strict=True):
        half = nn.Linear(weight.size(1), weight.size(0)).requires_grad_(False)
        half.weight.copy_(weight), half.bias.copy_(bias)
        halves.append(half)
    return halves
