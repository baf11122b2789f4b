"""Packages that not everybody needs: the extras of ``pyproject.toml``."""

from importlib import import_module
from types import ModuleType

from .errors import UserError

__all__ = ['needs']


def needs(module: str, extra: str, package: str | None = None) -> ModuleType:
    """Import a package of an extra.

    Args:
        module: Its name in Python.
        extra: The extra of mmvheat that installs it.
        package: Its name for pip, if that is another one.

    Raises:
        UserError: If it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f'{package or module} cannot be imported ({error}): install the extra `{extra}` of '
            f"mmvheat (pip install 'mmvheat[{extra}]', or '.[{extra}]' in its clone)"
        ) from error
