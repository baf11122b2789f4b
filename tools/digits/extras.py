"""Optional dependencies of the data sets, asked for where they are needed."""

import importlib
from types import ModuleType

from mmvheat.errors import UserError

__all__ = ['require']


def require(module: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: Dotted name of the module.

    Returns:
        The imported module.

    Raises:
        UserError: If it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f'the embedded digits need {error.name!r}, which is not installed: '
            'pip install "mmvheat[demo]"'
        ) from error
