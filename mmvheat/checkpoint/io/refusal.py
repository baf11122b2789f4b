"""Why a checkpoint file is not read."""

from collections.abc import Iterable
from typing import Any

__all__ = ['AGAIN', 'MAX_NAME', 'Refusal', 'check_names', 'damaged', 'megabytes']

AGAIN = 'copy or download it again'
MAX_NAME = 1000


class Refusal(ValueError):
    """Why a file is not read; the reader puts the name of the file before it."""


def damaged() -> Refusal:
    """Say that a file is incomplete or was changed on its way."""
    return Refusal(f'is truncated or damaged: {AGAIN}')


def megabytes(size: int) -> str:
    """Format a number of bytes for a message."""
    return f'{size / 1e6:,.1f} MB'


def check_names(names: Iterable[Any]) -> None:
    """Refuse names that a message, a log or a table cannot show.

    Raises:
        Refusal: If there is one.
    """
    for name in names:
        if isinstance(name, str) and not (len(name) <= MAX_NAME and name.isprintable()):
            raise Refusal(
                f'holds the name {name[:60]!r}, which is too long or cannot be printed: '
                'rename it and save again'
            )
