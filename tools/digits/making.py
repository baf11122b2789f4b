"""What the tools that make data share: a progress bar, and refusals of the disk as one line."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmvheat.errors import UserError

__all__ = ['Making', 'making']


class Making:
    """A data set being made.

    Attributes:
        root: Its folder, once it is there.
        made: How much was made.
    """

    def __init__(self, bar: Progress, task: str) -> None:
        self.root: Path | None = None
        self.made = 0
        self._bar, self._task = bar, bar.add_task(task, total=None, visible=False)

    def advance(self, done: int, total: int) -> None:
        """Show how far it is."""
        self.made = done
        self._bar.update(self._task, completed=done, total=total, visible=True)


@contextmanager
def making(data_root: str, task: str, unit: str) -> Iterator[Making]:
    """Show progress while a block makes a data set, and say what came of it.

    Args:
        data_root: The folder that the user named.
        task: What is being done.
        unit: What is counted.

    Raises:
        UserError: If the folder cannot be written.
        KeyboardInterrupt: With a word on what is left.
    """
    console = Console()
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f'{unit}, left'),
        TimeRemainingColumn(),
    )
    start = time.perf_counter()
    try:
        with Progress(*columns, console=console) as bar:
            data_set = Making(bar, task)
            yield data_set
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        reason = f'{error.strerror}: {error.filename}'
        raise UserError(
            f'cannot write data root {data_root!r} ({reason}): name another --data-root'
        ) from error
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt('the data root is as it was') from stop
    seconds = time.perf_counter() - start
    what = (
        f'made {data_set.made} {unit} in {seconds:.0f} s' if data_set.made else 'already complete'
    )
    console.print(f'{data_set.root}: {what}', highlight=False, soft_wrap=True)
