"""mmvheat: vHeat, the vision backbone built on heat conduction, for the OpenMMLab libraries.

Importing it registers the backbone and lets mmengine load its own checkpoints on today's torch:
at once where mmengine has been imported, else as soon as it is. Until then neither mmengine nor
torch is imported: a command line answers at once, and ``mmvheat.doctor`` where one is broken.
In the same way mmpretrain finds our classifiers by name once it is there.
It also gives mmcv its functions where it was installed without a compiled module.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
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


def _list_classifiers() -> None:
    """Let ``mmpretrain.get_model`` and ``mmpretrain.list_models`` find our classifiers.

    Detectors and segmentors are left out: ``get_model`` builds in mmpretrain's scope alone.
    """
    hub = import_module('mmpretrain.apis.model').ModelHub
    root = Path(__file__).parent / '.mim'
    index = root / 'configs' / 'classification' / 'metafile.yml'
    # The hub refuses names that it has, as from a user who registered the index.
    if index.is_file() and not hub.has('vheat-tiny_16xb128_in1k'):
        hub.register_model_index(index, config_prefix=root)


def _leave_out_multimodal(dependency: ModuleType) -> None:
    """Let mmpretrain 1.2 be imported where transformers 5 is: its multimodal models need 4."""
    if dependency.WITH_MULTIMODAL:
        version = import_module('importlib.metadata').version('transformers')
        dependency.WITH_MULTIMODAL = int(version.partition('.')[0]) < 5


class _Watcher:
    """Watches imports, and registers what we have for a module once that module is there.

    That is when the outermost of the watched imports ends: a room of ours that imports mmengine
    must be whole first. What another module will read is mended at once.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.waiting = {'mmengine': _register, 'mmpretrain.apis.model': _list_classifiers}
        self.mended = {'mmpretrain.utils.dependency': _leave_out_multimodal}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        watched = fullname in self.waiting or fullname in self.mended
        if not watched and not fullname.startswith(f'{__name__}.'):
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
        if mend := self.mended.get(module.__name__):
            mend(module)
        if self.depth == 0:
            self.register()

    def register(self) -> None:
        """Register for every module that is there and was waited for; look away after the last."""
        for name in [name for name in self.waiting if name in sys.modules]:
            # What registers imports rooms of ours, and comes back here.
            if then := self.waiting.pop(name, None):
                then()
        if not self.waiting and self in sys.meta_path:
            sys.meta_path.remove(self)


mmcv_ops.install()
sys.meta_path.insert(0, _Watcher())
sys.meta_path[0].register()
