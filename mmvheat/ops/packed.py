"""Linear layers and convolutions whose weights are kept in the order that oneDNN wants them in.

Without it oneDNN brings a weight into that order in each call, which takes as long as to compute a
small map. What is kept is a copy: it does not see changes of the weight. Nothing is recorded for a
backward pass.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import dispatch

__all__ = ['PackedConvolution', 'PackedLinear', 'can_pack']


def can_pack(dtype: torch.dtype) -> bool:
    """Whether weights of a dtype can be packed for this CPU, by this torch.

    Args:
        dtype: What the products are computed in.
    """
    parts = (
        dispatch.linear_pointwise,
        dispatch.linear_pointwise_add,
        dispatch.convolution_pointwise,
        dispatch.reorder_linear_weight,
        dispatch.reorder_convolution_weight,
    )
    if None in parts or not (
        torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    ):
        return False
    if dtype == torch.bfloat16:
        supported = dispatch.bf16_is_supported
        return supported is not None and supported()
    return dtype == torch.float32


class PackedLinear:
    """A linear layer without gradients, on a CPU.

    Args:
        weight: Weight of shape (C', C).
        bias: Bias of shape (C',), or None.
        rows: How many vectors are mapped at a time; any other number works, maybe slower.
        dtype: What is computed in; see :func:`can_pack`.
        scale: Factors of the outputs, shape (C',), which become a part of weight and bias.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        rows: int,
        dtype: torch.dtype,
        scale: Tensor | None = None,
    ) -> None:
        weight = weight.detach()
        bias = None if bias is None else bias.detach()
        if scale is not None:
            weight = weight * scale.detach()[:, None]
            bias = None if bias is None else bias * scale.detach()
        self._bias = None if bias is None else bias.to(dtype, copy=True)
        self._weight = dispatch.reorder_linear_weight(weight.to(dtype).contiguous(), rows)

    def __call__(self, x: Tensor, activation: str = 'none', variant: str = '') -> Tensor:
        """Map (..., C) to (..., C').

        Args:
            x: Tensor of the dtype that was packed for.
            activation: As of :func:`.fused.product`.
            variant: Likewise.
        """
        return dispatch.linear_pointwise(x, self._weight, self._bias, activation, [], variant)

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """Map (..., C) to (..., C'), and add a tensor (..., C') while the result is written."""
        return dispatch.linear_pointwise_add(x, other, self._weight, self._bias, 'add')


class PackedConvolution:
    """A convolution without gradients, on a CPU.

    Args:
        convolution: The layer.
        size: Shape (B, C, H, W) of the map; any other works, maybe slower.
        dtype: What is computed in; see :func:`can_pack`.
    """

    def __init__(
        self, convolution: torch.nn.Conv2d, size: Sequence[int], dtype: torch.dtype
    ) -> None:
        bias = convolution.bias
        self._bias = None if bias is None else bias.detach().to(dtype, copy=True)
        self._geometry = (
            list(convolution.padding),
            list(convolution.stride),
            list(convolution.dilation),
            convolution.groups,
        )
        weight = convolution.weight.detach().to(dtype)
        if convolution.groups == 1:
            weight = weight.contiguous(memory_format=torch.channels_last)
        self._weight = dispatch.reorder_convolution_weight(weight, *self._geometry, list(size))

    def __call__(self, x: Tensor) -> Tensor:
        """Convolve a map (B, C, H, W), a view of a channels-last one, as the result is."""
        return dispatch.convolution_pointwise(
            x, self._weight, self._bias, *self._geometry, 'none', [], ''
        )
