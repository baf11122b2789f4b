"""What a demo run ended with: its table, and whether the figures are good enough."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from lengths import length_of
from rich.console import Console
from rich.table import Table

__all__ = ['Outcome', 'load_reference', 'report', 'table_of']


@dataclass
class Outcome:
    """What a demo run ended with; kept as ``results.json`` beside the run."""

    scratch: bool
    seed: int
    full: bool
    figures: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)


def table_of(outcome: Outcome, reference: Outcome | None) -> tuple[list[str], list[list[str]]]:
    """Give header and rows of a run's table.

    Args:
        outcome: The run.
        reference: For a run from scratch, the pretrained one to compare with.
    """
    scratch = outcome.scratch
    header = [
        'figure',
        'from scratch' if scratch else 'value',
        'pretrained' if scratch else 'floor',
        'training',
        'testing',
    ]
    runs = {
        'top-1': ('cls', 'cls-test'),
        'box AP': ('det', 'det-test'),
        'mask AP': ('det', 'det-test'),
        'mIoU': ('seg', 'seg-test'),
        'mIoU (TTA)': ('seg', 'seg-tta'),
    }
    beside = (reference.figures if reference else {}) if scratch else _floors(outcome)
    rows = []
    for name, value in outcome.figures.items():
        times = [f'{outcome.seconds[run]:.0f} s' for run in runs[name]]
        other = f'{beside[name]:.1f}' if name in beside else '-'
        rows.append([name, f'{value:.1f}', other, *times])
    return header, rows


def _floors(outcome: Outcome) -> dict[str, float]:
    return length_of(outcome.full).floors | {'mIoU (TTA)': outcome.figures['mIoU']}


def report(outcome: Outcome, reference: Outcome | None, console: Console) -> list[str]:
    """Print the table and say what is below its floor.

    Args:
        outcome: The run.
        reference: For a run from scratch, the pretrained one to compare with.
        console: Where to print.

    Returns:
        One line for every figure that is below its floor.
    """
    figures, length = outcome.figures, length_of(outcome.full)
    table = Table(title='from scratch' if outcome.scratch else 'mmvheat demo')
    header, rows = table_of(outcome, reference)
    for number, name in enumerate(header):
        table.add_column(name, justify='right' if number else 'left')
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f'{sum(outcome.seconds.values()):.0f} s in all')

    if not outcome.scratch:
        return [
            f'{name} is {figures[name]:.1f}, below its floor of {floor:.1f}'
            for name, floor in _floors(outcome).items()
            if figures[name] < floor
        ]
    if reference is None:
        console.print(f'`{length.command}` gives the figures with pretraining to compare with')
        return []
    gain = reference.figures['mIoU'] - figures['mIoU']
    console.print(f'pretraining and conversion bring {gain:.1f} points of mIoU')
    if gain < length.least_gain:
        expected = f'expected {length.least_gain:.0f} or more'
        return [f'pretraining brings {gain:.1f} points of mIoU, {expected}']
    return []


def load_reference(path: Path, seed: int, full: bool) -> Outcome | None:
    """Read the pretrained run of the same seed and length that a run from scratch compares with."""
    if not path.is_file():
        return None
    outcome = Outcome(**json.loads(path.read_text()))
    return outcome if (outcome.seed, outcome.full) == (seed, full) else None
