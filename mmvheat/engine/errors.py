"""Mistakes of the user: one line on stderr, exit status 2, no traceback."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmvheat.errors import UserError as CommandLineError

__all__ = ['CommandLineError', 'config_errors', 'is_first_process', 'run_command']

# Long enough for rank 0 to reach the same mistake on a slow disk; torchrun then ends the others.
_SECONDS_FOR_RANK_0 = 30.0


@contextmanager
def config_errors(where: str, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Report what goes wrong while a config is turned into objects as the config's mistake.

    Args:
        where: What is being built, the start of the message.
        also: Further exceptions that mean a mistake of the user here.

    Raises:
        CommandLineError: Instead of a ``ValueError``, ``TypeError``, ``KeyError`` or
            ``FileNotFoundError``, which is how the libraries refuse a setting; one that comes from
            below gets ``where`` before it. All else is let through: it is a programming error.
    """
    try:
        yield
    except CommandLineError as error:
        if str(error).startswith(where):
            raise
        raise CommandLineError(f'{where}: {error}') from error
    except (ValueError, TypeError, KeyError, FileNotFoundError, *also) as error:
        if os.environ.get('MMVHEAT_TRACEBACK'):
            raise
        if isinstance(error, FileNotFoundError) and error.filename:
            raise CommandLineError(
                f'{where}: {error.filename} does not exist: check the paths in the config'
            ) from error
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        raise CommandLineError(
            f'{where}: {type(error).__name__}: {" ".join(text.split())} '
            '(MMVHEAT_TRACEBACK=1 shows where)'
        ) from error


def is_first_process() -> bool:
    """Whether this is rank 0 by torchrun's or slurm's word, or runs alone."""
    return int(os.environ.get('RANK') or os.environ.get('SLURM_PROCID') or 0) == 0


def run_command(main: Callable[[], None]) -> int:
    """Run a command line and turn a :class:`CommandLineError` into one line on stderr.

    Of several processes only the first prints: the others wait for torchrun to end them.

    Returns:
        The exit status: 0, or 2 after a mistake of the user.
    """
    try:
        main()
    except CommandLineError as error:
        if not is_first_process():
            time.sleep(_SECONDS_FOR_RANK_0)
        sys.stderr.write(f'error: {error}\n')
        sys.stderr.flush()
        return 2
    return 0
