"""Pure functions of vHeat on plain tensors; torch is all they need."""

from .dct import dct2d, dct_basis, idct2d
from .diffusivity import predict_diffusivity
from .freq_embed import FREQ_EMBED_MODES, freq_embed_size, resize_freq_embed
from .heat import conduct, conduction_dtype, heat_conduction, heat_decay

__all__ = [
    'FREQ_EMBED_MODES',
    'conduct',
    'conduction_dtype',
    'dct2d',
    'dct_basis',
    'freq_embed_size',
    'heat_conduction',
    'heat_decay',
    'idct2d',
    'predict_diffusivity',
    'resize_freq_embed',
]
