"""A matrix product, as large as a machine likes it: what the speed of models is a share of."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mmvheat.ops import dispatch

_SIDE = 1536


@dataclass(frozen=True)
class Product:
    """A product of two square matrices.

    Attributes:
        dtype: Their precision.
        factors: The matrices.
    """

    dtype: torch.dtype
    factors: tuple[Tensor, Tensor]

    @property
    def name(self) -> str:
        """What messages and records call it."""
        return f'product {str(self.dtype).removeprefix("torch.")}'

    @property
    def flops(self) -> int:
        """Multiplications and additions of one product."""
        return 2 * _SIDE**3

    def run(self) -> Tensor:
        """Multiply, by the fastest library that torch has on a CPU."""
        first, second = self.factors
        if dispatch.linear_pointwise is None:
            return first @ second.T
        return dispatch.linear_pointwise(first, second, None, 'none', [], '')


def products_of(device: torch.device) -> list[Product]:
    """Make the products that a CPU computes natively, in float32 and bfloat16; none on a GPU."""
    if device.type != 'cpu':
        return []
    supported = dispatch.bf16_is_supported
    dtypes = [torch.float32, *([torch.bfloat16] if supported is not None and supported() else [])]
    make = partial(torch.randn, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    return [Product(dtype, (make().to(dtype), make().to(dtype))) for dtype in dtypes]
