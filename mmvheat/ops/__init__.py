"""Pure functions of vHeat on plain tensors; torch is all they need."""

from .dct import dct2d, dct_basis, idct2d
from .freq_embed import FREQ_EMBED_MODES, freq_embed_size, resize_freq_embed
from .fused import gated_linear, linear, mlp
from .global_filter import filter_globally, resize_global_filter
from .heat import (
    conduct,
    given_diffusivity,
    heat_conduction,
    heat_decay,
    predict_diffusivity,
)
from .kernels import kernels_available, use_kernels

__all__ = [
    'FREQ_EMBED_MODES',
    'conduct',
    'dct2d',
    'dct_basis',
    'filter_globally',
    'freq_embed_size',
    'gated_linear',
    'given_diffusivity',
    'heat_conduction',
    'heat_decay',
    'idct2d',
    'kernels_available',
    'linear',
    'mlp',
    'predict_diffusivity',
    'resize_freq_embed',
    'resize_global_filter',
    'use_kernels',
]
