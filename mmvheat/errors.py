"""The one error class for what a user gave that cannot work; everything else is a bug of ours."""

import traceback
from pathlib import Path

__all__ = ['UserError', 'is_user_error', 'raised_in']


class UserError(ValueError):
    """What the user gave cannot work.

    The message says what was given, what was expected and what to do. Command lines print it as one
    line and exit with status 2 (``mmvheat.command_line``).
    """


def raised_in(error: BaseException, folder: Path) -> bool:
    """Whether the code that raised an error lies in a folder."""
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).is_relative_to(folder)


def is_user_error(error: BaseException) -> bool:
    """Whether an error is the user's: a `UserError`, or a ValueError of ``checkpoint``, as yet."""
    return isinstance(error, UserError) or (
        isinstance(error, ValueError) and raised_in(error, Path(__file__).parent / 'checkpoint')
    )
