"""Mistakes of the user: the one class for them, and what their messages are made of.

Everything else that is raised is a bug of ours.
"""

import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ['UserError', 'config_errors', 'first_names', 'is_first_process']


class UserError(ValueError):
    """What the user gave cannot work.

    The message says what was given, what was expected and what to do. Command lines print it as one
    line and exit with status 2 (``mmvheat.cli.command``).
    """


def is_first_process() -> bool:
    """Whether this process speaks: rank 0 by torchrun's or slurm's word, or one that runs alone."""
    return int(os.environ.get('RANK') or os.environ.get('SLURM_PROCID') or 0) == 0


def _raised_by_us(error: BaseException) -> bool:
    """Whether our own code raised an error."""
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).is_relative_to(Path(__file__).parent)


def first_names(names: Sequence[str], most: int) -> str:
    """List names for a message, at most so many of them: ``a, b and 3 more``."""
    more = len(names) - most
    return ', '.join(names[:most]) + (f' and {more} more' if more > 0 else '')


@contextmanager
def config_errors(where: str, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Report what goes wrong while a config is turned into objects as the config's mistake.

    Args:
        where: What is being built, the start of the message.
        also: Further exceptions that mean a mistake of the user here.

    Raises:
        UserError: Instead of a ``ValueError``, ``TypeError``, ``KeyError`` or
            ``FileNotFoundError``, which is how the libraries refuse a setting; one that comes from
            below gets ``where`` before it. All else is let through, and so is an error that our
            own code raises and does not call the user's: it is a bug.
    """
    try:
        yield
    except (ValueError, TypeError, KeyError, FileNotFoundError, *also) as error:
        if isinstance(error, UserError):
            if str(error).startswith(where):
                raise
            raise UserError(f'{where}: {error}') from error
        if _raised_by_us(error):
            raise
        if isinstance(error, FileNotFoundError) and error.filename:
            raise UserError(
                f'{where}: {error.filename} does not exist: check the paths in the config'
            ) from error
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        raise UserError(
            f'{where}: {type(error).__name__}: {" ".join(text.split())} '
            '(MMVHEAT_TRACEBACK=1 shows where)'
        ) from error
