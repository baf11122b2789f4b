"""mmvheat: vHeat, the vision backbone built on heat conduction, for the OpenMMLab libraries.

Importing it registers the backbone and lets mmengine load its own checkpoints on today's torch:
at once where mmengine has been imported, else as soon as it is. Until then neither mmengine nor
torch is imported: a command line answers at once, and ``mmvheat.doctor`` where one is broken.
It also gives mmcv its functions where it was installed without a compiled module.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from . import mmcv_ops

__version__ = '0.1.0'

__all__ = ['__version__', 'engine', 'mmcv_ops', 'models']


def __getattr__(name: str) -> ModuleType:
    """Import a room of the package when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return import_module(f'{__name__}.{name}')


def _register() -> None:
    """Register what configs may name, and apply the fixes that hold for the whole process."""
    engine = import_module(f'{__name__}.engine')
    import_module(f'{__name__}.models')
    engine.apply_stack_fixes()


class _WithMMEngine(MetaPathFinder):
    """Finds mmengine as the other finders do, and registers once its import has ended."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != 'mmengine':
            return None
        others = (finder for finder in sys.meta_path if finder is not cls)
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next(filter(None, specs), None)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_register(module: ModuleType) -> None:
            run(module)
            _register()
            sys.meta_path.remove(cls)

        spec.loader.exec_module = run_and_register
        return spec


mmcv_ops.install()
if 'mmengine' in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _WithMMEngine)
