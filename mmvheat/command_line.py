"""What all command lines of the project share."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import NoReturn

__all__ = ['OneLineParser', 'one_line_errors', 'run_main']

Main = Callable[[Sequence[str] | None], int]


class OneLineParser(argparse.ArgumentParser):
    """Reports a mistake on the command line in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and exit."""
        self.exit(2, f'error: {message} (--help lists the arguments)\n')


def one_line_errors(main: Main) -> Main:
    """Let a command say in one line what was wrong with its input, or that it was interrupted.

    Args:
        main: Takes the arguments and returns the exit status.

    Returns:
        The same, which returns 2 for bad input and 130 if it was interrupted.
    """

    @wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except (ValueError, TypeError, OSError, MemoryError) as error:
            print('error:', ' '.join(str(error).split()) or 'out of memory', file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print('error: interrupted', file=sys.stderr)
            return 130

    return guarded


def run_main(main: Main) -> NoReturn:
    """Run a command that writes a file as this process, and exit with its status.

    SIGTERM ends it like an interrupt, so that no half-written file stays behind.

    Args:
        main: Takes the arguments and returns the exit status.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.stdout.reconfigure(errors='backslashreplace')  # a path may hold any bytes
    sys.exit(main(None))
