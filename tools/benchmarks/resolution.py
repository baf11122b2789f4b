"""The paper's Figure 1: throughput, peak memory and FLOPs of vHeat and Swin over the resolution.

Swin's windows grow with the image (resolution / 32), as in the paper. What does not fit into memory
is reported as such, and the others run on.
"""

import argparse
import copy
import sys
from collections.abc import Callable

import torch
from agreement import Agreement, require_agreement, worst_error
from countdown import Countdown
from failures import noting_failure
from memory import PeakMemory, release
from options import DTYPES, add_options, autocast, check_options, positive
from peers import OURS, build_model, check_timm
from results import Results, Timed, figure, format_spread, save_figure, table
from stopping import until_stopped
from timing import measure
from torch import Tensor, nn

from mmvheat.analysis import Count, count_model
from mmvheat.command_line import OneLineParser, run_command
from mmvheat.errors import UserError

RESOLUTIONS = [224, 384, 512, 768, 1024, 1280, 1536, 2048]
STRIDE = 32
FAMILIES = (OURS, 'swin')
SCALES = ('base', 'small', 'tiny', 'micro')
GIB = 2**30

TOLERANCES = {torch.float32: 5e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = OneLineParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        '--resolutions',
        nargs='+',
        type=positive,
        default=RESOLUTIONS,
        metavar='N',
        help=f'sides of the images, multiples of 32 ({" ".join(map(str, RESOLUTIONS))})',
    )
    parser.add_argument(
        '--models',
        nargs='+',
        default=list(FAMILIES),
        metavar='NAME',
        help=f'of {", ".join(FAMILIES)} (both); ratios are to the first',
    )
    parser.add_argument(
        '--scale', choices=SCALES, default='base', help='size of the models (base, as in the paper)'
    )
    parser.add_argument('--batch', type=positive, default=8, metavar='N', help='images (8)')
    add_options(parser, repetitions=7)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Count, check, time and report."""
    args = parse_args(argv)
    for side in args.resolutions:
        if side % STRIDE:
            raise UserError(f'--resolutions are multiples of {STRIDE}, got {side}')
    for name in args.models:
        if name not in FAMILIES:
            raise UserError(f'unknown model {name!r}: use {", ".join(FAMILIES)}')
    check_timm([f'{name}-{args.scale}' for name in args.models])
    device = check_options(args)
    results = Results('resolution', vars(args), device, args.json)
    names = len(args.models) * (2 if args.compile else 1)
    rows: list[dict] = []
    with until_stopped(), Countdown(len(args.resolutions) * names * args.repetitions) as countdown:
        for side in args.resolutions:
            agreements, timed, points = measure_at(
                side, args, device, countdown, compare=side == min(args.resolutions)
            )
            rows += points
            results.add(agreements, timed, points=rows)
            release(device)
        results.finish()
    show(rows, args, results.record['environment'])
    if args.plot:
        draw(rows, args)


def measure_at(
    side: int,
    args: argparse.Namespace,
    device: torch.device,
    countdown: Countdown,
    compare: bool,
) -> tuple[list[Agreement], list[Timed], list[dict]]:
    """Count and time all models at one resolution.

    Args:
        side: Side of the images.
        args: The command line.
        device: Where to run.
        countdown: Progress.
        compare: Whether to compare ours with float64 first, which takes its time.

    Returns:
        What was compared, the samples, and a row for every model and what it takes.
    """
    if args.compile:
        torch.compiler.reset()
    failures: dict[str, str] = {}
    peaks: dict[str, int | None] = {}
    counts: dict[str, Count] = {}
    agreements: list[Agreement] = []
    calls: dict[str, Callable[[], Tensor]] = {}
    images = None
    for name in args.models:
        counts[name] = count(name, args.scale, side)
        model = None
        with noting_failure(failures, name):
            if images is None:
                images = torch.randn(args.batch, 3, side, side, device=device)
            peak = PeakMemory(device)
            with device:
                model = build(name, args.scale, side).eval()
            if compare and name == OURS:
                agreements.append(compare_with_float64(model, images[:1], DTYPES[args.dtype]))
            calls[name] = call_of(model, images, DTYPES[args.dtype])
            calls[name]()
            peaks[name] = peak.of(calls[name])
        if args.compile and model is not None and name not in failures:
            own = f'{name} compiled'
            counts[own] = counts[name]
            with noting_failure(failures, own, must_agree=name == OURS):
                compiled = torch.compile(model, dynamic=False, backend=args.compile)
                calls[own] = call_of(compiled, images, DTYPES[args.dtype])
                error = worst_error(calls[own](), calls[name]())
                what = f'{own} in {args.dtype} at {side}'
                agreements.append(
                    require_agreement(what, name, error, TOLERANCES[DTYPES[args.dtype]])
                )
                peaks[own] = peak.of(calls[own])
        elif args.compile:
            countdown.tick(name, args.repetitions)
        for failed in failures:
            calls.pop(failed, None)
        if name in failures:
            # The weights of what cannot run would take the room of the next.
            del model
            release(device)
            countdown.tick(name, args.repetitions)
    timed: list[Timed] = []
    if calls:
        samples = measure(
            calls,
            device,
            args.repetitions,
            args.sample_ms / 1e3,
            tick=lambda name: countdown.tick(f'{name} at {side}'),
        )
        timed = Timed.all_of('throughput', str(side), samples, next(iter(samples)))
    by_name = {row.name: row for row in timed}
    points = []
    for name, counted in counts.items():
        point = {
            'resolution': side,
            'name': name,
            'flops': counted.flops,
            'parameters': counted.parameters,
            'failure': failures.get(name),
        }
        if name in by_name:
            row = by_name[name]
            point |= {
                'images_per_second': args.batch / row.seconds.median,
                'seconds': format_spread(row.seconds),
                'baseline': row.baseline,
                'ratio': format_spread(row.ratio),
                'peak_bytes': peaks[name],
            }
        points.append(point)
    return agreements, timed, points


def build(name: str, scale: str, side: int) -> nn.Module:
    """Build a model for images of one size."""
    return build_model(name, scale, (side, side), window=side // STRIDE)


def count(name: str, scale: str, side: int) -> Count:
    """Count a model's multiply-adds for one image, ours in the form with k computed beforehand."""
    with torch.device('meta'):
        model = build(name, scale, side)
    return count_model(model, (side, side), inference_form=True)


def call_of(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Callable[[], Tensor]:
    """The call that is timed."""

    def call() -> Tensor:
        with torch.no_grad(), autocast(images.device, dtype):
            return model(images)

    return call


def compare_with_float64(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Agreement:
    """Compare our result with that in float64."""
    wide = copy.deepcopy(model).double()
    with torch.no_grad():
        truth = wide(images.double())
    error = worst_error(call_of(model, images, dtype)(), truth)
    what = f'{OURS} in {str(dtype).removeprefix("torch.")} at {images.size(-1)}'
    return require_agreement(what, 'float64', error, TOLERANCES[dtype])


def show(rows: list[dict], args: argparse.Namespace, machine: dict) -> None:
    """Print the table."""
    print(
        f'{machine["device"]}, torch {machine["torch"]}, {args.dtype}, {args.scale}, '
        f'batch {args.batch}'
    )
    lines = []
    for row in rows:
        line = [f'{row["resolution"]} {row["name"]}', f'{row["flops"] / 1e9:.4g}']
        if row['failure']:
            line += [row['failure'], '-', '-']
        else:
            peak = row['peak_bytes']
            line += [
                f'{row["images_per_second"]:.4g}',
                row['ratio'],
                'not measured' if peak is None else f'{peak / GIB:.2f}',
            ]
        lines.append(line)
    header = ('', 'GFLOPs', 'images/s', f'times {args.models[0]}', 'peak GiB')
    table('Inference over the resolution (median [quartiles])', header, lines)


def draw(rows: list[dict], args: argparse.Namespace) -> None:
    """Draw what the paper's Figure 1 has."""
    wanted = {
        'images_per_second': ('images/s', 1),
        'peak_bytes': ('peak memory (GiB)', GIB),
        'flops': ('GFLOPs', 1e9),
    }
    drawn, axes = figure(len(wanted))
    for (key, (label, unit)), axis in zip(wanted.items(), axes, strict=True):
        for name in dict.fromkeys(row['name'] for row in rows):
            points = [
                (row['resolution'], row[key] / unit)
                for row in rows
                if row['name'] == name and row.get(key) is not None
            ]
            if points:
                axis.plot(*zip(*points, strict=True), 'o-', label=f'{name}-{args.scale}')
        axis.set(xlabel='resolution', ylabel=label, yscale='log')
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
        else:
            axis.text(0.5, 0.5, 'not measured', transform=axis.transAxes, ha='center')
    save_figure(drawn, args.plot)


if __name__ == '__main__':
    sys.exit(run_command(main))
