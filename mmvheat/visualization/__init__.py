"""What a vHeat does, as arrays: heat from a point, diffusivity, receptive fields, activations.

Nothing is drawn here: :mod:`.plots` makes pictures of the arrays.
"""

from .cam import CAM_METHODS, class_activation
from .frequencies import channel_groups, group_means, magnitude_spectrum, radial_profile
from .heat import heat_at, point_heat
from .operators import (
    block_diffusivity,
    constant_diffusivity,
    find_backbone,
    find_block,
    map_cell,
    operator_input,
    stage_maps,
)
from .receptive_field import (
    SHARES,
    Square,
    growing_squares,
    last_map,
    noise_images,
    receptive_field,
    squares,
    timm_map,
)

__all__ = [
    'CAM_METHODS',
    'SHARES',
    'Square',
    'block_diffusivity',
    'channel_groups',
    'class_activation',
    'constant_diffusivity',
    'find_backbone',
    'find_block',
    'group_means',
    'growing_squares',
    'heat_at',
    'last_map',
    'magnitude_spectrum',
    'map_cell',
    'noise_images',
    'operator_input',
    'point_heat',
    'radial_profile',
    'receptive_field',
    'squares',
    'stage_maps',
    'timm_map',
]
