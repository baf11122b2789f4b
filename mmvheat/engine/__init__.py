"""What mmengine's Runner needs on today's torch, on a CPU and for an exact resume.

Importing it is light (torch and mmengine) and registers what configs may name. ``tools/train.py``
and ``tools/test.py`` use the rest from its modules: ``runner``, ``training_config``,
``testing_config``, ``launch``.
"""

from .amp import CPUAmpOptimWrapper
from .checkpoint_hook import SafeCheckpointHook
from .compile import CompileBackboneHook
from .finite_hook import FiniteHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .logger_hook import MainLoggerHook
from .pack_hook import PackHook
from .resume import ExactResumeHook
from .stack_fixes import apply_stack_fixes

__all__ = [
    'CPUAmpOptimWrapper',
    'CompileBackboneHook',
    'ExactResumeHook',
    'FiniteHook',
    'LayerDecayOptimWrapperConstructor',
    'MainLoggerHook',
    'PackHook',
    'SafeCheckpointHook',
    'apply_stack_fixes',
]
