"""What all benchmarks share: progress, failures, tables, pictures and the JSON record."""

import argparse
import contextlib
import datetime
import gc
import importlib.metadata
import json
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from timing import Spread, Timed, measure

from mmvheat.errors import UserError

_SECONDS_BETWEEN_LINES = 10.0


class _Stopped(BaseException):
    """SIGTERM came. Not an ``Exception``: it is no failure of a candidate."""


class Benchmark:
    """One run of a benchmark: it times candidates, shows progress and keeps the record.

    As a context manager it ends on SIGTERM, which timeout(1) sends: what was measured before is
    kept, and the program goes on behind the block.

    Args:
        name: Name of the benchmark.
        args: The command line, parsed as ``options.py`` has it.
        samples: Number of samples in all.
        what: What is timed, for the line that is printed first.

    Attributes:
        rows: What was timed.
        agreements: What was compared (``agreement.py``).
        failures: Candidates that cannot run, and why.
        record: What is written as JSON, these three among it.
        clock: Gives seconds; None for :func:`timing.now`.
    """

    def __init__(self, name: str, args: argparse.Namespace, samples: int, what: str) -> None:
        if args.threads:
            torch.set_num_threads(args.threads)
        self.args = args
        self.rows: list[Timed] = []
        self.agreements: list[dict] = []
        self.failures: list[dict[str, str]] = []
        self.clock: Callable[[], float] | None = None
        self.record = {
            'benchmark': name,
            # Without folders: the paths of this machine are of no use to others.
            'command': ' '.join(re.sub(r'(^|=)/.*/', r'\1', argument) for argument in sys.argv),
            'began': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
            'complete': False,
            'environment': _environment(args.device),
            'options': vars(args),
            'agreements': self.agreements,
            'results': self.rows,
            'failures': self.failures,
        }
        self._what = what
        plain = {'markup': False, 'highlight': False, 'emoji': False}
        self._out = Console(width=None if sys.stdout.isatty() else 200, **plain)
        self._err = Console(stderr=True, soft_wrap=True, **plain)
        console = self._out if self._out.is_terminal else self._err
        self._live = console.is_terminal
        self._bar = Progress(
            *([BarColumn()] if self._live else []),
            MofNCompleteColumn(),
            TextColumn('samples, left'),
            TimeRemainingColumn(),
            TextColumn('{task.description}', markup=False),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=self._err.is_terminal,
        )
        self._task = self._bar.add_task('', total=samples)
        self._shown = time.monotonic()

    def __enter__(self) -> 'Benchmark':
        self.write()
        machine, args = self.record['environment'], self.args
        self.say(
            f'{machine["device"]}, threads {machine["threads"]}, torch {machine["torch"]}, '
            f'{args.dtype}, {self._what}, batch {args.batch}'
        )

        def stop(*_: object) -> NoReturn:
            raise _Stopped

        self._handler = signal.signal(signal.SIGTERM, stop)
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        signal.signal(signal.SIGTERM, self._handler)
        if self._live:
            self._bar.stop()
        if kind in (None, _Stopped):
            self.record['complete'] = kind is None
            self.write()
        if kind is _Stopped:
            self._err.print('stopped: only what was measured before is reported')
        return kind is _Stopped

    def tick(self, text: str, samples: int = 1) -> None:
        """Count samples that are done, or that will not come."""
        self._bar.update(self._task, advance=samples, description=text)
        now = time.monotonic()
        if not self._live and now - self._shown >= _SECONDS_BETWEEN_LINES:
            self._shown = now
            self._err.print(self._bar.get_renderable())

    @contextlib.contextmanager
    def attempt(
        self, name: str, samples: int, also: tuple[type[Exception], ...] = (), **where: str
    ) -> Iterator[None]:
        """Note why a candidate cannot run, and go on with the others.

        Args:
            name: The candidate.
            samples: How many samples will not come if it fails.
            also: User errors to note too; all others are let through.
            where: What the failure's record says beside name and reason.
        """
        try:
            yield
            return
        except UserError as error:
            if not isinstance(error, also):
                raise
            why = str(error)
        except Exception as error:
            why = _reason(error)
        self.failures.append({**where, 'name': name, 'why': why})
        self._err.print(f'{name} ({", ".join(where.values())}): {why}')
        self.tick(name, samples)

    def time(
        self,
        what: str,
        group: str,
        calls: Mapping[str, Callable[[], object]],
        baselines: Sequence[str | None] = (),
        each_alone: bool = False,
        yardsticks: Mapping[str, Callable[[], object]] | None = None,
    ) -> list[Timed]:
        """Time candidates and keep the results; :meth:`write` them when their figures are set.

        Args:
            what: What is timed.
            group: What it is timed on.
            calls: The candidates.
            baselines: The first of them that is a candidate is the baseline, else the first
                candidate is.
            each_alone: See :func:`measure`.
            yardsticks: Calls to time in the same rounds that are no candidates.
        """
        yardsticks = yardsticks or {}
        samples = measure(
            {**calls, **yardsticks},
            self.args.repetitions,
            self.args.sample_ms / 1e3,
            each_alone,
            lambda name: self.tick(f'{name} ({group}), {what}'),
            self.clock,
        )
        beside = {name: samples.pop(name) for name in yardsticks}
        baseline = next((name for name in (*baselines, *samples) if name in samples), '')
        rows = []
        for name, own in samples.items():
            seconds = Spread.of(own)
            ratio = Spread.of([a / b for a, b in zip(samples[baseline], own, strict=True)])
            rows.append(Timed(what, group, name, own, seconds, baseline, ratio, {}, beside))
        self.rows += rows
        return rows

    def write(self) -> None:
        """Write the record anew, so that what was measured is never lost."""
        path = self.args.json
        if path is None:
            return
        text = json.dumps(self.record, indent=1, default=_plain)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + '\n')
        except OSError as error:
            raise UserError(f'cannot write {path}: {error.strerror}') from error

    def say(self, text: str) -> None:
        """Print a line."""
        self._out.print(text, soft_wrap=True)

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table; its first column is text, the others are numbers."""
        table = Table(box=box.SIMPLE_HEAD, show_edge=False)
        for i, name in enumerate(header):
            table.add_column(name, justify='right' if i else 'left')
        for row in rows:
            table.add_row(*map(str, row))
        self.say(f'\n{title} (median [quartiles])')
        self._out.print(table)

    def draw(self, *curves: str) -> None:
        """Draw a picture of all rows, if the command line asks for one.

        Args:
            curves: Figures to draw over the groups; none for bars of the ratios.

        Raises:
            UserError: If it cannot be written.
        """
        if not self.args.plot:
            return
        from plotting import draw_bars, draw_curves

        from mmvheat.visualization.plots import save_figure

        path = self.args.plot
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'{path} cannot be written: {error.strerror}') from error
        save_figure(draw_curves(self.rows, curves) if curves else draw_bars(self.rows), path)


def release(device: torch.device) -> None:
    """Give back memory that is no longer used, so that the next find the device empty."""
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()


def _reason(error: Exception) -> str:
    """Say in one line why a candidate cannot run."""
    # torch says it for the CPU with a bare RuntimeError.
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    ):
        return 'out of memory'
    first = next(iter(str(error).strip().splitlines()), '')
    return f'{type(error).__name__}: {first}'[:120]


def _plain(value: object) -> object:
    """What JSON has for a value that it does not know."""
    if isinstance(value, Timed):
        return asdict(value)
    return value.name if isinstance(value, Path) and value.is_absolute() else str(value)


def _environment(device: torch.device) -> dict[str, object]:
    """Say what the figures are measured on and with."""
    cuda, versions = device.type == 'cuda', {}
    for package in ('triton', 'timm'):
        versions[package] = None
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        'device': torch.cuda.get_device_name(device) if cuda else _processor(),
        'device_type': device.type,
        'threads': torch.get_num_threads(),
        'python': platform.python_version(),
        'torch': torch.__version__,
        **versions,
        'cuda': torch.version.cuda if cuda else None,
        'cudnn': torch.backends.cudnn.version() if cuda else None,
        'commit': _commit(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r'^model name\s*: (.*)', Path('/proc/cpuinfo').read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The clone's commit, with a + where files differ from it."""
    command = ['git', 'describe', '--always', '--exclude=*', '--abbrev=40', '--dirty=+']
    options = {'cwd': Path(__file__).parent, 'capture_output': True, 'text': True, 'timeout': 20}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, check=True, **options).stdout.strip()
    return None
