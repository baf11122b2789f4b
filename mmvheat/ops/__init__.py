"""Pure functions of vHeat on plain tensors; torch is all they need."""

from .conduction import CONDUCTION_METHODS
from .dct import dct2d, dct_basis, idct2d
from .diffusivity import predict_diffusivity
from .freq_embed import FREQ_EMBED_MODES, freq_embed_size, resize_freq_embed
from .gate import gated_linear
from .heat import conduct, heat_conduction, heat_decay
from .kernels import kernels_available, use_kernels
from .linear import linear, linear_gelu
from .mlp import mlp

__all__ = [
    'CONDUCTION_METHODS',
    'FREQ_EMBED_MODES',
    'conduct',
    'dct2d',
    'dct_basis',
    'freq_embed_size',
    'gated_linear',
    'heat_conduction',
    'heat_decay',
    'idct2d',
    'kernels_available',
    'linear',
    'linear_gelu',
    'mlp',
    'predict_diffusivity',
    'resize_freq_embed',
    'use_kernels',
]
