"""What a benchmark hands over: the machine, JSON, tables and pictures."""

import datetime
import importlib.metadata
import json
import math
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from timing import Spread, ratios, spread

from mmvheat.errors import UserError

__all__ = ['Results', 'Timed', 'environment', 'figure', 'format_spread', 'save_figure', 'table']

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Timed:
    """One candidate's samples of one measure.

    Attributes:
        measure: What was timed.
        group: What it was timed on; ratios are within a group.
        name: The candidate.
        samples: Seconds of one call, one sample a round.
        seconds: Their median and quartiles.
        baseline: Whose time is over the candidate's in the ratio.
        ratio: How many times as fast as the baseline: median and quartiles of all rounds.
        figures: What else there is to say, such as images a second.
    """

    measure: str
    group: str
    name: str
    samples: list[float]
    seconds: Spread
    baseline: str
    ratio: Spread
    figures: dict[str, float | str | None]

    @classmethod
    def all_of(
        cls, measure: str, group: str, samples: dict[str, list[float]], baseline: str
    ) -> list['Timed']:
        """Summarise a whole measurement."""
        return [
            cls(measure, group, name, values, spread(values), baseline, spread(relative), {})
            for (name, values), relative in zip(
                samples.items(), ratios(samples, baseline).values(), strict=True
            )
        ]


class Results:
    """Collects results, and writes them as JSON after every part, so that a part is never lost.

    Args:
        benchmark: Name of the benchmark.
        options: Its options.
        device: Where it ran.
        path: File to write; None for none.
    """

    def __init__(
        self, benchmark: str, options: dict, device: torch.device, path: Path | None
    ) -> None:
        self._path = path
        self.record = {
            'benchmark': benchmark,
            'command': ' '.join(_without_folders(arg) for arg in sys.argv),
            'began': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
            'complete': False,
            'environment': environment(device),
            'options': {key: _plain(value) for key, value in options.items()},
            'agreements': [],
            'results': [],
        }

    def add(self, agreements: Sequence = (), results: Sequence = (), **others: object) -> None:
        """Keep more results and write the file anew."""
        self.record['agreements'] += [asdict(agreement) for agreement in agreements]
        self.record['results'] += [row if isinstance(row, dict) else asdict(row) for row in results]
        self.record |= others
        self._write()

    def finish(self) -> None:
        """Say in the file that all of it is there."""
        self.record['complete'] = True
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(_finite(self.record), indent=1) + '\n')
        except OSError as error:
            raise UserError(f'cannot write {self._path}: {error.strerror}') from error


def environment(device: torch.device) -> dict[str, object]:
    """Say what the figures were measured on and with."""
    cuda = device.type == 'cuda'
    return {
        'device': torch.cuda.get_device_name(device) if cuda else _processor(),
        'device_type': device.type,
        'threads': torch.get_num_threads(),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'triton': _version('triton'),
        'timm': _version('timm'),
        'cuda': torch.version.cuda if cuda else None,
        'cudnn': torch.backends.cudnn.version() if cuda else None,
        'commit': _commit(),
    }


def format_spread(value: Spread, scale: float = 1.0) -> str:
    """Three digits of the median, with the quartiles."""
    return ' '.join(
        (
            _three_digits(value.median * scale),
            f'[{_three_digits(value.low * scale)}, {_three_digits(value.high * scale)}]',
        )
    )


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; its first column is text, the others are numbers."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    print(f'\n{title}')
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print('  '.join(cells).rstrip())
    sys.stdout.flush()


def figure(panels: int, height: float = 4.0):
    """A new figure with so many panels side by side.

    Args:
        panels: Their number.
        height: Height in inches.

    Raises:
        UserError: If matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            '--plot needs matplotlib: pip install matplotlib, or leave --plot off'
        ) from error
    drawn = Figure(figsize=(5.2 * panels, height), layout='constrained')
    return drawn, drawn.subplots(1, panels, squeeze=False)[0]


def save_figure(drawn, path: Path) -> None:
    """Write a figure."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(path, dpi=120)
    except (OSError, ValueError) as error:  # ValueError: of a suffix that matplotlib has not
        raise UserError(f'cannot write {path}: {error}') from error


def _three_digits(value: float) -> str:
    """Write a number with three digits, without an exponent where it is of usual size."""
    if value == 0 or not 1e-4 <= abs(value) < 1e7:
        return f'{value:.2e}'
    return f'{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}'


def _plain(value: object) -> object:
    """An option as JSON has it."""
    if isinstance(value, Path):
        return value.name if value.is_absolute() else str(value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _finite(value: object) -> object:
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _without_folders(argument: str) -> str:
    """A result is for others too: an absolute path is the business of this machine."""
    return Path(argument).name if argument.startswith('/') else argument


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The clone's commit, with a + where files differ from it."""
    try:
        commit, changed = (
            subprocess.run(
                ['git', '-C', str(ROOT), *arguments],
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            ).stdout.strip()
            for arguments in (
                ('rev-parse', 'HEAD'),
                ('status', '--porcelain', '--untracked-files=no'),
            )
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + '+' * bool(changed)
