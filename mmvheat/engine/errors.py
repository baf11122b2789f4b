"""What goes wrong while a config is turned into objects: the config's mistake, or a bug of ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmvheat.errors import UserError, raised_in

__all__ = ['config_errors']

_PACKAGE = Path(__file__).parents[1]


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
        if raised_in(error, _PACKAGE):
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
