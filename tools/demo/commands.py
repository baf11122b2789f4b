"""Run one command of the demo: progress on the screen, everything it prints in a log file."""

import re
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ['CommandFailed', 'run_command']

_ITERATION = re.compile(r'Iter\((?P<kind>\w+)\)\s+\[\s*(?P<done>\d+)/(?P<total>\d+)\]')
_LOSS = re.compile(r'\bloss: (?P<loss>[\d.]+)')


@dataclass
class CommandFailed(Exception):
    """A command of the demo ended with a status other than 0."""

    command: str
    status: int
    log: Path
    tail: str


def run_command(command: list[str], log: Path, console: Console, start: int = 0) -> float:
    """Run a command of the project from the top of the clone.

    Args:
        command: Program and arguments.
        log: File for all that the command prints.
        console: Where progress goes: a bar on a terminal, a line now and then elsewhere.
        start: Iterations that were done before (of a resumed training).

    Returns:
        Seconds it took.

    Raises:
        CommandFailed: If the command fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    tail: deque[str] = deque(maxlen=15)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )
    try:
        with log.open('w') as file, _Progress(console, start) as progress:
            for line in process.stdout:
                file.write(line)
                file.flush()
                tail.append(line)
                progress.update(line)
        status = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if status:
        raise CommandFailed(' '.join(command), status, log, ''.join(tail))
    return time.perf_counter() - began


class _Progress:
    """Shows the iterations that a training or a test logs."""

    def __init__(self, console: Console, start: int) -> None:
        self._console = console
        self._start = start
        self._began: float | None = None
        self._shown = 0.0
        self._bar = Progress(
            TextColumn('      '),
            BarColumn(bar_width=40),
            TextColumn('{task.completed:.0f}/{task.total:.0f} iterations'),
            TextColumn('{task.description}'),
            TextColumn('left'),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = None

    def __enter__(self) -> '_Progress':
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, line: str) -> None:
        """Read a line of the log."""
        match = _ITERATION.search(line)
        if match is None:
            return
        done, total = int(match['done']), int(match['total'])
        loss = _LOSS.search(line)
        text = f'loss {float(loss["loss"]):.3f}' if loss else ''
        if self._console.is_terminal:
            if self._task is None or self._bar.tasks[-1].total != total:
                self._task = self._bar.add_task(text, total=total)
            self._bar.update(self._task, completed=done, description=text)
            return
        now = time.perf_counter()
        if self._began is None:
            self._began, self._start = now, done
            return
        if now - self._shown > 10 or done == total:
            self._shown = now
            speed = (done - self._start) / (now - self._began)
            left = time.strftime('%M:%S', time.gmtime((total - done) / max(speed, 1e-6)))
            self._console.print(f'      {done}/{total} iterations  {text}  left {left}')
            sys.stdout.flush()
