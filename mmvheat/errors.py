"""The one error class for what a user gave that cannot work; everything else is a bug of ours."""

__all__ = ['UserError']


class UserError(ValueError):
    """What the user gave cannot work.

    The message says what was given, what was expected and what to do. Command lines print it as one
    line and exit with status 2 (``mmvheat.command_line``).
    """
