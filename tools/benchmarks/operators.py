"""The heat conduction operators that are timed against each other."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mmvheat.ops import CONDUCTION_METHODS, dct_basis, heat_conduction, heat_decay
from mmvheat.ops.kernels import kernels_available

__all__ = ['OPERATORS', 'Operator', 'default_operators']

Operator = Callable[[Tensor, Tensor], Tensor]


def einsum_conduction(x: Tensor, k: Tensor) -> Tensor:
    """Conduction as anybody would write it: orthonormal matrices in the dtype of the map."""
    rows = dct_basis(x.size(1), x.dtype, x.device)
    columns = dct_basis(x.size(2), x.dtype, x.device)
    # One axis after the other: an einsum of all three would first make the matrix of both axes.
    x = torch.einsum('mj,bnjc->bnmc', columns, torch.einsum('ni,bijc->bnjc', rows, x))
    x = x * heat_decay(k).to(x.dtype)
    return torch.einsum('mj,bimc->bijc', columns, torch.einsum('ni,bnmc->bimc', rows, x))


# Map (B, H, W, C) and diffusivity (H, W, C) to map; the first one is what the backbone runs.
OPERATORS: dict[str, Operator] = {
    'mmvheat': heat_conduction,
    **{method: partial(heat_conduction, method=method) for method in CONDUCTION_METHODS},
    'einsum': einsum_conduction,
}


def default_operators(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Names of all operators that are themselves there: elsewhere 'fused' is plain torch again."""
    fused = kernels_available(device) and dtype in (torch.float16, torch.bfloat16)
    return [name for name in OPERATORS if fused or name != 'fused']
