"""The one error class for what a user gave that cannot work; everything else is a bug of ours."""

import traceback
from pathlib import Path

__all__ = ['UserError', 'raised_in']


class UserError(ValueError):
    """What the user gave cannot work.

    The message says what was given, what was expected and what to do. Command lines print it as one
    line and exit with status 2 (``mmvheat.command_line``).
    """


def raised_in(error: BaseException, folder: Path) -> bool:
    """Whether the code that raised an error lies in a folder."""
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).is_relative_to(folder)
