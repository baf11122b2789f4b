"""mmvheat: vHeat, the vision backbone built on heat conduction, for the OpenMMLab libraries.

Importing it registers the backbone, lets mmengine load its own checkpoints on today's torch, and
gives mmcv its functions where it was installed without a compiled module.
"""

__version__ = '0.1.0'

from . import engine, mmcv_ops, models

engine.apply_stack_fixes()
mmcv_ops.install()

__all__ = ['__version__', 'engine', 'mmcv_ops', 'models']
