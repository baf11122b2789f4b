"""What all command lines of the project run in: mistakes become one line and an exit status."""

import errno
import io
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from mmvheat.errors import UserError, is_first_process

__all__ = ['MISTAKE', 'run_command', 'run_main']

# Long enough for rank 0 to reach the same mistake on a slow disk; torchrun then ends the others.
_SECONDS_FOR_RANK_0 = 30.0
MISTAKE, _INTERRUPTED, _BROKEN_PIPE = 2, 128 + signal.SIGINT, 128 + signal.SIGPIPE
# What a disk, its quota or its permissions refuse; a file that is missing here is a bug of ours.
_OF_THE_DISK = {
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOSPC,
    errno.EPERM, errno.EROFS, errno.ESTALE,
}  # fmt: skip
# How torch says it: on a GPU with OutOfMemoryError, on the CPU with a bare RuntimeError.
_TORCH_MEMORY = re.compile(r"can't allocate memory: you tried to allocate \d+ bytes")


def run_command(main: Callable[[], int | None]) -> int:
    """Run a command line; what the user can mend becomes one line on stderr.

    That is a :class:`~mmvheat.errors.UserError`, a disk that is full or refuses, and memory that
    does not suffice. With ``MMVHEAT_TRACEBACK=1`` their traceback is printed before the line.
    Whatever else is raised is a bug and is let through. Of several processes only the first speaks:
    the others wait for torchrun to end them.

    Args:
        main: The command; it returns its exit status, None for 0.

    Returns:
        The exit status: that of ``main``, 2 after a mistake, 130 after an interrupt, 141 where the
        reader of the output is gone.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')  # A path may hold any bytes.
    try:
        status = main() or 0
        sys.stdout.flush()  # Else a reader who is gone is noticed after the last chance to say so.
        return status
    except KeyboardInterrupt as stop:
        sys.stderr.write(': '.join(['error: interrupted', *map(str, stop.args)]) + '\n')
        return _INTERRUPTED
    except BrokenPipeError:
        # Python flushes once more on its way out, and would complain.
        sys.stdout = open(os.devnull, 'w')  # noqa: SIM115
        return _BROKEN_PIPE
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        message = _message(error)
        if message is None:
            raise
        if not is_first_process():
            time.sleep(_SECONDS_FOR_RANK_0)
        if os.environ.get('MMVHEAT_TRACEBACK'):
            traceback.print_exc()
        sys.stderr.write(f'error: {" ".join(message.split())}\n')
        sys.stderr.flush()
        return MISTAKE


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Run a command that writes a file as this process, and exit with its status.

    SIGTERM ends it like an interrupt, so that no half-written file stays behind.

    Args:
        main: The command; see :func:`run_command`.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(run_command(main))


def _message(error: Exception) -> str | None:
    """Say what the user can mend; None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        if error.errno not in _OF_THE_DISK:
            return None
        where = f'{error.filename}: ' if error.filename else ''
        return f'{where}{error.strerror}: free or choose another place, or mend its permissions'
    wanted = _wanted_memory(error)
    if wanted is None:
        return None
    command = ' '.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
    return f'out of memory{wanted} in: {command}; use smaller batches or images, or more memory'


def _wanted_memory(error: Exception) -> str | None:
    """Tell what was asked for where memory did not suffice; None for all other errors."""
    text = str(error)
    if isinstance(error, MemoryError):
        return f' ({text.splitlines()[-1]})' if text else ''  # A data loader's holds a traceback.
    if type(error).__name__ == 'OutOfMemoryError':
        return f' ({text.partition(". GPU")[0]})'
    found = _TORCH_MEMORY.search(text)
    return f' ({found[0].partition(": ")[2]})' if found else None
