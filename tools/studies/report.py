"""Tables and pictures of docs/study.md, made from the results alone."""

import math
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmvheat.errors import UserError

from .grid import Arm, backbones
from .records import Records, read_costs

__all__ = ['Paired', 'compare', 'summary', 'write_report']

_NOT_MEASURED = 'not measured'
_PAGE = 'study.md'


@dataclass(frozen=True)
class Paired:
    """The mean difference of two arms over the seeds that both have.

    Attributes:
        mean: First minus second.
        margin: Half the width of its 95% confidence interval (Student's t).
        p: Of a paired t-test, two-sided.
        seeds: How many.
    """

    mean: float
    margin: float
    p: float
    seeds: int

    def __str__(self) -> str:
        return f'{self.mean:+.2f} ± {self.margin:.2f} (p = {self.p:.3f}, {self.seeds} seeds)'


def compare(first: Mapping[int, float], second: Mapping[int, float]) -> Paired | None:
    """Compare two arms by seed.

    Args:
        first: Figures by seed.
        second: The same of another arm.

    Returns:
        The comparison; None with fewer than two seeds in common.
    """
    from scipy import stats

    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 2:
        return None
    differences = [first[seed] - second[seed] for seed in seeds]
    mean, spread = statistics.mean(differences), statistics.stdev(differences)
    if spread == 0:
        return Paired(mean, 0.0, 1.0 if mean == 0 else 0.0, len(seeds))
    degrees = len(seeds) - 1
    error = spread / math.sqrt(len(seeds))
    margin = stats.t.ppf(0.975, degrees) * error
    return Paired(
        mean, float(margin), float(2 * stats.t.sf(abs(mean) / error, degrees)), len(seeds)
    )


def summary(values: Iterable[float]) -> str:
    """Mean and standard deviation over seeds, and how many there are."""
    values = list(values)
    if not values:
        return _NOT_MEASURED
    if len(values) == 1:
        return f'{values[0]:.2f} (1 seed)'
    return f'{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} ({len(values)})'


def write_report(records: Records, arms: tuple[Arm, ...], docs: Path) -> list[Path]:
    """Put the tables into the page, between its marks, and draw the pictures beside it.

    Args:
        records: The results.
        arms: All there are.
        docs: Folder of ``study.md``; pictures go into its folder ``images``.

    Returns:
        The files written.

    Raises:
        UserError: If the page is not there or has lost a mark.
    """
    page = docs / _PAGE
    if not page.is_file():
        raise UserError(f'{page} is not there: take it from git')
    costs = read_costs(records.folder)
    tables = {
        'ablation': ablation_table(records, arms, costs) + '\n' + claims_table(records, arms),
        'downstream': downstream_table(records, arms),
        'transfer': transfer_table(records, arms),
        'runs': runs_table(records, arms),
    }
    written = [page]
    drawn = {
        'ablation': (
            cost_points(records, arms, costs),
            'study_costs.png',
            'Top-1 accuracy on Fashion-MNIST of every model, against its multiply-adds and against '
            'its measured time on the CPU',
        ),
        'downstream': (
            gain_panels(records, arms),
            'study_downstream.png',
            'Mask AP and mIoU over the length of the training, pretrained and from scratch',
        ),
    }
    for study, (content, name, words) in drawn.items():
        if content:
            from .drawing import PICTURES, save

            picture = docs / 'images' / name
            save(PICTURES[study](content), picture)
            written.append(picture)
            tables[study] += f'\n![{words}](images/{name})\n'
    text = page.read_text()
    for name, table in tables.items():
        marks = f'<!-- {name} -->', f'<!-- end of {name} -->'
        pattern = re.compile(rf'{re.escape(marks[0])}\n.*?{re.escape(marks[1])}', re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise UserError(f'{page} needs {marks[0]} and {marks[1]} once: take it from git')
        text = pattern.sub(lambda _, t=table, m=marks: f'{m[0]}\n\n{t}\n{m[1]}', text)
    page.write_text(text)
    return written


def figures(records: Records, arm: Arm, metric: str | None = None) -> dict[int, float]:
    """A figure of an arm by seed, its first one unless told."""
    metric = metric or next(iter(arm.metrics))
    return {
        run['seed']: run['metrics'][metric]
        for run in records.results(arm)
        if metric in run['metrics']
    }


def ablation_table(records: Records, arms: tuple[Arm, ...], costs: Mapping[str, Any]) -> str:
    """The rows of the ablation, with their difference from vHeat as it is."""
    rows = [
        '| model | top-1 | minus predicted, 95% interval | parameters | multiply-adds | '
        'ms an image | learning rate |',
        '| --- | --- | --- | --- | --- | --- | --- |',
    ]
    by_name = {arm.name: arm for arm in arms if arm.study == 'ablation'}
    reference = figures(records, by_name['predicted'])
    for name, arm in by_name.items():
        own = figures(records, arm)
        paired = compare(own, reference) if name != 'predicted' else None
        cost = costs.get(name)
        cells = [
            name,
            summary(own.values()),
            '' if name == 'predicted' else str(paired or _NOT_MEASURED),
            f'{cost["parameters"] / 1e3:.0f} k' if cost else _NOT_MEASURED,
            f'{cost["flops"] / 1e6:.1f} M' if cost else _NOT_MEASURED,
            '{:.3f} [{:.3f}, {:.3f}]'.format(*cost['milliseconds']) if cost else _NOT_MEASURED,
            _chosen(records, arm, arms),
        ]
        rows.append(f'| {" | ".join(cells)} |')
    return '\n'.join(rows) + '\n'


# What the paper says is better, and than what.
_CLAIMS = (
    ('predicted', 'learned'),
    ('learned', 'fixed-0.1'),
    ('learned', 'fixed-1'),
    ('learned', 'fixed-10'),
    ('predicted', 'global_filter'),
    ('predicted', 'identity'),
    ('predicted', 'no-dwconv'),
)


def claims_table(records: Records, arms: tuple[Arm, ...]) -> str:
    """The paper's order, pair by pair."""
    rows = [
        '| in the paper better | than | difference here, 95% interval | so here |',
        '| --- | --- | --- | --- |',
    ]
    by_name = {arm.name: arm for arm in arms if arm.study == 'ablation'}
    for better, worse in _CLAIMS:
        paired = compare(*(figures(records, by_name[name]) for name in (better, worse)))
        if paired is None:
            verdict = _NOT_MEASURED
        elif abs(paired.mean) <= paired.margin:
            verdict = 'not decided'
        else:
            verdict = 'better' if paired.mean > 0 else 'worse'
        rows.append(f'| {better} | {worse} | {paired or _NOT_MEASURED} | {verdict} |')
    return '\n'.join(rows) + '\n'


def _chosen(records: Records, arm: Arm, arms: tuple[Arm, ...]) -> str:
    """The overrides that a search chose, as their numbers."""
    number = records.choose(arm, arms)
    if number is None:
        return _NOT_MEASURED
    found = re.findall(r'\d[\d.e-]*', str(list(arm.candidates[number].values())))
    return ', '.join(found)


def downstream_table(records: Records, arms: tuple[Arm, ...]) -> str:
    """Pretrained against from scratch."""
    rows = [
        '| data | task | iterations | figure | pretrained | from scratch | gain, 95% interval | '
        'rate, share of it in the backbone: pretrained; scratch |',
        '| --- | --- | --- | --- | --- | --- | --- | --- |',
    ]
    for arm, other in _starts(arms):
        data, task, *_ = arm.name.split('/')
        for metric in arm.metrics:
            own, scratch = figures(records, arm, metric), figures(records, other, metric)
            chosen = '; '.join(_chosen(records, one, arms) for one in (arm, other))
            cells = [
                data, task, str(arm.iterations), _NAMES[metric], summary(own.values()),
                summary(scratch.values()), str(compare(own, scratch) or _NOT_MEASURED), chosen,
            ]  # fmt: skip
            rows.append(f'| {" | ".join(cells)} |')
    return '\n'.join(rows) + '\n'


def _starts(arms: tuple[Arm, ...]) -> list[tuple[Arm, Arm]]:
    """Pair what starts pretrained with the same from scratch."""
    by_path = {arm.path: arm for arm in arms if arm.study == 'downstream'}
    return [
        (arm, by_path[path.replace('/pretrained/', '/scratch/')])
        for path, arm in by_path.items()
        if '/pretrained/' in path
    ]


def gain_panels(records: Records, arms: tuple[Arm, ...]) -> list[dict[str, Any]]:
    """What the picture of the downstream table shows: the first figure of every data and task."""
    panels: dict[str, dict[str, Any]] = {}
    for pair in _starts(arms):
        data, task, *_ = pair[0].name.split('/')
        for name, arm in zip(('pretrained', 'from scratch'), pair, strict=True):
            values = [*figures(records, arm).values()]
            if values:
                title = f'{data}, {task}'
                metric = _NAMES[next(iter(arm.metrics))]
                panel = panels.setdefault(title, {'title': title, 'figure': metric, 'curves': {}})
                panel['curves'].setdefault(name, {})[arm.iterations] = values
    return list(panels.values())


_NAMES = {
    'coco/segm_mAP': 'mask AP',
    'coco/bbox_mAP': 'box AP',
    'mIoU': 'mIoU',
    'accuracy/top1': 'top-1',
}


def transfer_table(records: Records, arms: tuple[Arm, ...]) -> str:
    """A row for each size and length, a column for each mode, each against `bicubic`."""
    own = [arm for arm in arms if arm.study == 'transfer' and arm.start is not None]
    modes = list(dict.fromkeys(arm.start.mode for arm in own))
    rows = [
        f'| data, side of the images | length | {" | ".join(modes)} | '
        f'{" | ".join(f"{mode} minus {modes[0]}" for mode in modes[1:])} |',
        '| --- ' * (2 * len(modes) + 1) + '|',
    ]
    groups: dict[tuple[str, str, str], dict[str, Arm]] = {}
    for arm in own:
        data, size, mode, length = arm.name.split('/')
        groups.setdefault((data, size, length), {})[mode] = arm
    for (data, size, length), by_mode in groups.items():
        values = {mode: figures(records, arm) for mode, arm in by_mode.items()}
        iterations = next(iter(by_mode.values())).iterations
        first = values[modes[0]]
        cells = [
            f'{data}, {size}',
            f'{iterations} iterations' if iterations else length,
            *(summary(values[mode].values()) for mode in modes),
            *(str(compare(values[mode], first) or _NOT_MEASURED) for mode in modes[1:]),
        ]
        rows.append(f'| {" | ".join(cells)} |')
    return '\n'.join(rows) + '\n'


def runs_table(records: Records, arms: tuple[Arm, ...]) -> str:
    """How many runs there were, on what, and how long they took."""
    rows = [
        '| sub-study | runs | hours of one core | processor | commits |',
        '| --- | --- | --- | --- | --- |',
    ]
    for study in dict.fromkeys(arm.study for arm in arms):
        runs = records.study(study)['runs'].values()
        seconds = sum(run['train_seconds'] + run['test_seconds'] for run in runs)
        machines = [run['machine'] for run in runs]
        cells = [
            study,
            str(len(runs)) if runs else _NOT_MEASURED,
            f'{seconds / 3600:.1f}' if runs else '',
            ', '.join(sorted({one['cpu'] for one in machines})),
            ', '.join(sorted({one['commit'][:7] for one in machines})),
        ]
        rows.append(f'| {" | ".join(cells)} |')
    return '\n'.join(rows) + '\n'


def cost_points(
    records: Records, arms: tuple[Arm, ...], costs: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What the picture shows: name, accuracies, multiply-adds and milliseconds of every model."""
    points = []
    for arm in arms:
        if arm.study == 'ablation' and arm.name in costs and arm.name in backbones():
            values = list(figures(records, arm).values())
            if values:
                cost = costs[arm.name]
                points.append(
                    {
                        'name': arm.name,
                        'values': values,
                        'flops': cost['inference_flops'],
                        'milliseconds': cost['milliseconds'],
                    }
                )
    return points
