"""mmvheat: vHeat, the vision backbone built on heat conduction, for the OpenMMLab libraries.

Importing it registers the backbone and lets mmengine load its own checkpoints on today's torch:
at once where mmengine has been imported, else as soon as it is. Until then neither mmengine nor
torch is imported: a command line answers at once, and ``mmvheat.doctor`` where one is broken.
It also gives mmcv its functions where it was installed without a compiled module.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
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


class _UntilMMEngine:
    """Watches imports of mmengine and of our rooms, and registers once mmengine is there.

    That is when the outermost of them ends: a room that imports mmengine must be whole first.
    """

    depth = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != 'mmengine' and not fullname.startswith(f'{__name__}.'):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next(filter(None, specs), None)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = partial(self._run, spec.loader.exec_module)
        return spec

    def _run(self, run: Callable[[ModuleType], None], module: ModuleType) -> None:
        self.depth += 1
        try:
            run(module)
        finally:
            self.depth -= 1
        if self.depth == 0 and 'mmengine' in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            _register()


mmcv_ops.install()
if 'mmengine' in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _UntilMMEngine())
