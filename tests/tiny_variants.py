"""Options of ``arch`` for small variants of the backbone."""

from typing import Any

__all__ = ['VARIANTS']

VARIANTS: dict[str, dict[str, Any]] = {
    'learned': dict(diffusivity='learned'),
    'shared': dict(diffusivity='shared'),
    'fixed': dict(diffusivity='fixed', k=0.5),
    'dct_filter': dict(operator='dct_filter'),
    'global_filter': dict(operator='global_filter'),
    'identity': dict(operator='identity'),
    'no_dwconv': dict(dwconv=False),
    'isotropic': dict(depths=(2,), patch_size=7),
}
