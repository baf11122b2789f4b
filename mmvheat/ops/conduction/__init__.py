"""Ways to let the heat of a map spread; all compute the same, each is fastest somewhere."""

from collections.abc import Callable

from torch import Tensor

from .choice import fastest_method
from .even_odd import conduct_by_even_odd
from .fft import conduct_by_fft
from .fused import conduct_by_kernels
from .matrix import conduct_by_matrix
from .rows import conduct_by_rows

__all__ = ['CONDUCTION_METHODS', 'fastest_method']

# Each takes a map (B, H, W, C) and a decay (H, W, C) of one dtype, and returns a map.
CONDUCTION_METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    'matrix': conduct_by_matrix,
    'rows': conduct_by_rows,
    'even_odd': conduct_by_even_odd,
    'fft': conduct_by_fft,
    'fused': conduct_by_kernels,
}
