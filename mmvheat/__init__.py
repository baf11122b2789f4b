"""mmvheat: vHeat, the vision backbone built on heat conduction, for the OpenMMLab libraries.

Importing it registers the backbone and lets mmengine load its own checkpoints on today's torch.
"""

__version__ = '0.1.0'

from . import engine, models

engine.apply_stack_fixes()

__all__ = ['__version__', 'engine', 'models']
