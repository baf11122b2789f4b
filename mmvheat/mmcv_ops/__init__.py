"""mmcv's compiled functions by torch and torchvision, where mmcv has none of its own.

``mmcv.ops`` takes its functions from the compiled module ``mmcv._ext``, which the wheel
``mmcv-lite`` lacks. ``install`` lets Python import ``ext.py`` of this room under that name. It is
asked last, so a compiled module is used as it is, and nothing is imported before somebody needs it.
Importing ``mmvheat`` installs it, in every process that does so.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

__all__ = ['install']


class _StandIn:
    """Finds the compiled module of mmcv where no other finder does."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != 'mmcv._ext':
            return None
        return spec_from_file_location(fullname, Path(__file__).with_name('ext.py'))


def install() -> None:
    """Let Python find ``mmcv._ext`` here where nothing else offers it; once is enough."""
    if _StandIn not in sys.meta_path:
        sys.meta_path.append(_StandIn)
