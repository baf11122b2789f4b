"""Progress of one step: a bar on a terminal, a line now and then elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ['StepProgress']


class StepProgress:
    """Shows how far a step is and how long it will still take.

    Args:
        console: Where to show it.
        unit: What is counted.
        every: Seconds between two lines where there is no terminal.
    """

    def __init__(self, console: Console, unit: str, every: float = 10.0) -> None:
        self._console = console
        self._unit = unit
        self._every = every
        self._shown = -every
        self._bar = Progress(
            TextColumn('      '),
            BarColumn(bar_width=40),
            TextColumn('{task.completed:.0f}/{task.total:.0f} ' + unit),
            TextColumn('{task.description}'),
            TextColumn('left'),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> 'StepProgress':
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int, total: int, text: str = '') -> None:
        """Show that ``done`` of ``total`` are done; a new total begins a new count."""
        if not self._bar.tasks or self._bar.tasks[-1].total != total:
            self._bar.add_task(text, total=total)
        task = self._bar.tasks[-1]
        self._bar.update(task.id, completed=done, description=text)
        now = time.perf_counter()
        if self._console.is_terminal or task.time_remaining is None:
            return
        if now - self._shown < self._every and done < total:
            return
        self._shown = now
        minutes, seconds = divmod(round(task.time_remaining), 60)
        parts = [f'{done}/{total} {self._unit}', text, f'left {minutes}:{seconds:02d}']
        self._console.print('      ' + '  '.join(filter(None, parts)), highlight=False)
