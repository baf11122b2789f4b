"""How far a benchmark is: a bar on a terminal, a line now and then elsewhere; on stderr."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ['Countdown']


class Countdown:
    """Counts samples down to the end.

    Args:
        total: Number of samples in all.
        every: Seconds between two lines where there is no terminal.
    """

    def __init__(self, total: int, every: float = 10.0) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._total = total
        self._every = every
        self._done = self._before = 0
        self._began: float | None = None
        self._shown = time.perf_counter()
        self._bar = Progress(
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TextColumn('left'),
            TimeRemainingColumn(),
            TextColumn('{task.description}', markup=False),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task('', total=total)

    def __enter__(self) -> 'Countdown':
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def tick(self, text: str, samples: int = 1) -> None:
        """Count samples that are done, or that will not come."""
        self._done += samples
        self._bar.update(self._task, completed=self._done, description=text)
        now = time.perf_counter()
        if self._began is None:
            # From the first sample on: what came before was to build, compare and compile.
            self._began, self._before = now, self._done
        if self._console.is_terminal or now - self._shown < self._every:
            return
        self._shown = now
        left = (self._total - self._done) * (now - self._began) / max(self._done - self._before, 1)
        minutes, seconds = divmod(round(left), 60)
        line = f'{self._done}/{self._total} samples, left {minutes}:{seconds:02d}, {text}'
        self._console.print(line, markup=False, soft_wrap=True)
