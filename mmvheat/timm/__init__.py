"""vHeat among timm's models: importing this registers ``vheat_tiny`` and the others below."""

from importlib.util import find_spec

if find_spec('timm') is None:
    raise ModuleNotFoundError(
        'mmvheat.timm needs timm, which is not installed: pip install "mmvheat[timm]"', name='timm'
    )

from .vheat import VHeatForTimm, vheat_base, vheat_isotropic_small, vheat_small, vheat_tiny

__all__ = ['VHeatForTimm', 'vheat_base', 'vheat_isotropic_small', 'vheat_small', 'vheat_tiny']
