"""What a demo run ended with: its table, and whether the figures are good enough."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from lengths import length_of
from rich.console import Console
from rich.table import Table

__all__ = ['Outcome', 'load_reference', 'report']


@dataclass
class Outcome:
    """What a demo run ended with; kept as ``results.json`` beside the run."""

    scratch: bool
    seed: int
    full: bool
    figures: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)


def report(outcome: Outcome, reference: Outcome | None, console: Console) -> list[str]:
    """Print the table and say what is below its floor.

    Args:
        outcome: The run.
        reference: For a run from scratch, the pretrained one to compare with.
        console: Where to print.

    Returns:
        One line for every figure that is below its floor.
    """
    figures, seconds, length = outcome.figures, outcome.seconds, length_of(outcome.full)
    table = Table(title='from scratch' if outcome.scratch else 'mmvheat demo')
    table.add_column('figure')
    table.add_column('from scratch' if outcome.scratch else 'value', justify='right')
    table.add_column('pretrained' if outcome.scratch else 'floor', justify='right')
    table.add_column('training', justify='right')
    table.add_column('testing', justify='right')
    runs = {
        'top-1': ('cls', 'cls-test'),
        'box AP': ('det', 'det-test'),
        'mask AP': ('det', 'det-test'),
        'mIoU': ('seg', 'seg-test'),
        'mIoU (TTA)': ('seg', 'seg-tta'),
    }
    floors = length.floors | {'mIoU (TTA)': figures['mIoU']}
    beside = (reference.figures if reference else {}) if outcome.scratch else floors
    for name, value in figures.items():
        training, testing = (f'{seconds[run]:.0f} s' for run in runs[name])
        other = f'{beside[name]:.1f}' if name in beside else '-'
        table.add_row(name, f'{value:.1f}', other, training, testing)
    console.print(table)
    console.print(f'{sum(seconds.values()):.0f} s in all')
    console.print('Pictures, from top to bottom scenes, truth and predictions:')
    for picture in outcome.pictures:
        console.print(f'  {picture}', highlight=False)

    if not outcome.scratch:
        return [
            f'{name} is {figures[name]:.1f}, below its floor of {floor:.1f}'
            for name, floor in floors.items()
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
