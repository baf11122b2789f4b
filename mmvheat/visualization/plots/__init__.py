"""Pictures of what :mod:`mmvheat.visualization` computes, as matplotlib figures in one style."""

from .frequencies import plot_decay, plot_diffusivity, plot_spectrum
from .heat import plot_point_heat
from .maps import plot_activations, plot_features
from .receptive_field import plot_receptive_fields
from .style import figure_png, save_figure, styled

__all__ = [
    'figure_png',
    'plot_activations',
    'plot_decay',
    'plot_diffusivity',
    'plot_features',
    'plot_point_heat',
    'plot_receptive_fields',
    'plot_spectrum',
    'save_figure',
    'styled',
]
