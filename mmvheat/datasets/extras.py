"""Optional dependencies of the data sets, asked for where they are needed."""

import importlib
from types import ModuleType

__all__ = ['require']


def require(module: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: Dotted name of the module.

    Returns:
        The imported module.

    Raises:
        ImportError: If it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f'the embedded digits need {error.name!r}, which is not installed: '
            'pip install "mmvheat[demo]"',
            name=error.name,
        ) from error
