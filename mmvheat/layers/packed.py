"""The blocks' forward pass on a CPU with packed weights, see :mod:`mmvheat.ops.packed`.

Each takes its weights from the layer it stands for and computes the same, in fewer passes over the
map: a residual branch is added by the product that ends it, a layer scale is a part of the weight.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvheat.ops.packed import PackedConvolution, PackedLinear

from .blocks import Downsample, HalvingConv2d, HeatBlock, Stem

__all__ = ['PackedBlock', 'PackedDownsample', 'PackedStem']


class _Norm:
    """A LayerNorm over the channels, its weights scaled if the branch is."""

    def __init__(self, norm: nn.LayerNorm, scale: Tensor | None = None) -> None:
        weight, bias = norm.weight.detach(), norm.bias.detach()
        if scale is not None:
            weight, bias = weight * scale.detach(), bias * scale.detach()
        self._shape, self._eps = norm.normalized_shape, norm.eps
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self._shape, self._weight, self._bias, self._eps)


class PackedBlock:
    """A :class:`.blocks.HeatBlock` with packed weights, without gradients.

    Args:
        block: The block, in eval mode.
        size: Batch, height and width of the map; any other works, maybe slower.
        dtype: What the products are computed in, and dtype of the map.
    """

    def __init__(self, block: HeatBlock, size: Sequence[int], dtype: torch.dtype) -> None:
        batch, height, width = size
        rows, op, mlp = batch * height * width, block.op, block.mlp
        self._op, self._post_norm = op, block.post_norm
        self._dwconv = None
        if isinstance(op.dwconv, nn.Conv2d):
            shape = batch, op.dwconv.in_channels, height, width
            self._dwconv = PackedConvolution(op.dwconv, shape, dtype)
        # What scales a branch that is not normalised is a part of its last layer.
        gammas = block.gamma1, block.gamma2
        on_layer, on_norm = ((None, None), gammas) if block.post_norm else (gammas, (None, None))
        self._norm1 = _Norm(block.norm1, on_norm[0])
        self._norm2 = _Norm(block.norm2, on_norm[1])
        self._out_norm = _Norm(op.out_norm)
        # Heat and gate apart: the product applies SiLU while it writes the gate.
        weights, biases = op.linear.weight.chunk(2), op.linear.bias.chunk(2)
        self._heat = PackedLinear(weights[0], biases[0], rows, dtype)
        self._gate = PackedLinear(weights[1], biases[1], rows, dtype)
        self._out_linear = PackedLinear(
            op.out_linear.weight, op.out_linear.bias, rows, dtype, on_layer[0]
        )
        self._fc1 = PackedLinear(mlp.fc1.weight.flatten(1), mlp.fc1.bias, rows, dtype)
        self._fc2 = PackedLinear(mlp.fc2.weight.flatten(1), mlp.fc2.bias, rows, dtype, on_layer[1])
        self._folded = None if op.k_exp is None else op.k_exp.detach().to(dtype)

    def __call__(self, x: Tensor, freq_embed: Tensor | None, decay: Tensor | None) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C); arguments as of the block."""
        decay = decay if self._folded is None else self._folded
        if self._post_norm:
            x = x + self._norm1(self._out_linear(self._gated(x, freq_embed, decay)))
            return x + self._norm2(self._fc2(self._hidden(x)))
        x = self._out_linear.add(self._gated(self._norm1(x), freq_embed, decay), x)
        return self._fc2.add(self._hidden(self._norm2(x)), x)

    def _gated(self, x: Tensor, freq_embed: Tensor | None, decay: Tensor | None) -> Tensor:
        """Compute all of the operator but its last linear layer."""
        if self._dwconv is not None:
            x = self._dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        u = self._op.mix(self._heat(x), freq_embed, decay, True)
        return self._out_norm(u).mul_(self._gate(x, 'swish'))

    def _hidden(self, x: Tensor) -> Tensor:
        return self._fc1(x, 'gelu', 'none')


class _Halving:
    """A :class:`.blocks.HalvingConv2d` with a packed weight."""

    def __init__(self, layer: HalvingConv2d, size: Sequence[int], dtype: torch.dtype) -> None:
        self._convolution = PackedConvolution(layer, size, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        if x.size(3) > 2:
            return self._convolution(x)
        # The layer says why.
        return self._convolution(F.pad(x, (0, 3 - x.size(3))))[..., :1]


class PackedDownsample:
    """A :class:`.blocks.Downsample` with a packed weight, without gradients.

    Args:
        layer: The layer.
        size: Batch, height and width of the map; any other works, maybe slower.
        dtype: What the convolution is computed in, and dtype of the map.
    """

    def __init__(self, layer: Downsample, size: Sequence[int], dtype: torch.dtype) -> None:
        convolution, norm = layer
        batch, height, width = size
        shape = batch, convolution.in_channels, height, width
        self._convolution, self._norm = _Halving(convolution, shape, dtype), _Norm(norm)

    def __call__(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), C')."""
        return self._norm(self._convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class PackedStem:
    """A :class:`.blocks.Stem` with packed weights, without gradients.

    Args:
        stem: The stem.
        size: Batch, height and width of the images; any other works, maybe slower.
        dtype: What the convolutions are computed in, and dtype of the map.
    """

    def __init__(self, stem: Stem, size: Sequence[int], dtype: torch.dtype) -> None:
        batch, height, width = size
        self._dtype = dtype
        shape = batch, stem.conv1.in_channels, height, width
        self._conv1 = _Halving(stem.conv1, shape, dtype)
        shape = batch, stem.conv2.in_channels, height + 1 >> 1, width + 1 >> 1
        self._conv2 = _Halving(stem.conv2, shape, dtype)
        self._norm1, self._norm2 = _Norm(stem.norm1[1]), _Norm(stem.norm2[1])

    def __call__(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to (B, ceil(H / 4), ceil(W / 4), dim)."""
        x = x.to(self._dtype).contiguous(memory_format=torch.channels_last)
        x = F.gelu(self._norm1(self._conv1(x).permute(0, 2, 3, 1)))
        return self._norm2(self._conv2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
