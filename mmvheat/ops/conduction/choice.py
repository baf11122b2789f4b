"""Which way of conduction is the fastest, by measurement: ``tools/benchmarks/heat_operator.py``."""

from torch import Tensor

from ..kernels import kernels_enabled
from ..plain import is_plain, needs_grad

__all__ = ['fastest_method']


def fastest_method(x: Tensor, decay: Tensor) -> str:
    """Choose by device, precision and size (``docs/benchmarks.md`` has the figures).

    Args:
        x: Map of shape (B, H, W, C).
        decay: Decay of shape (H, W, C).

    Returns:
        A key of ``CONDUCTION_METHODS``.
    """
    if kernels_enabled(x.device):
        return 'fused'
    if x.device.type != 'cpu' or not is_plain((x, decay)) or needs_grad((x, decay)):
        return 'matrix'
    # Long rows overflow the cache, and bfloat16's batched product copies the basis for each.
    return 'rows' if x.size(2) >= 192 else 'matrix'
