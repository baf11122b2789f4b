"""mmvheat: vHeat, the vision backbone built on heat conduction, for the OpenMMLab libraries.

Importing it registers the backbone and makes the stack run on today's torch.
"""

__version__ = '0.1.0'

from . import models

__all__ = ['__version__', 'models']
