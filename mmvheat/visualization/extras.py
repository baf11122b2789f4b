"""Packages that only some pictures need."""

from importlib import import_module
from types import ModuleType

from mmvheat.errors import UserError

__all__ = ['needs']


def needs(module: str, package: str, extra: str) -> ModuleType:
    """Import a package of an extra.

    Args:
        module: Its name in Python.
        package: Its name for pip.
        extra: The extra of mmvheat that installs it.

    Raises:
        UserError: If it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f'{package} cannot be imported ({error}): install the extra `{extra}` of mmvheat '
            f"(pip install '.[{extra}]' in its clone)"
        ) from error
