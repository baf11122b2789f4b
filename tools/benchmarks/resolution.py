"""The paper's Figure 1: throughput, peak memory and FLOPs of vHeat and Swin over the resolution.

Swin's windows grow with the image (resolution / 32), as in the paper. What does not fit into memory
is reported as such, and the others run on.
"""

import argparse
from collections.abc import Sequence
from functools import partial

import torch
from backbone import time_models
from harness import DTYPES, Benchmark, make_parser, positive, release, run
from models import OURS, Group, build_model, check_timm
from torch import nn

from mmvheat.errors import UserError
from mmvheat.models.counting import Count, count_model

RESOLUTIONS = [224, 384, 512, 768, 1024, 1280, 1536, 2048]
STRIDE = 32
FAMILIES = (OURS, 'swin')
SCALES = ('base', 'small', 'tiny', 'micro')
GIB = 2**30


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, repetitions=7, plural='images')
    add = parser.add_argument
    text = f'sides of the images, multiples of {STRIDE} ({" ".join(map(str, RESOLUTIONS))})'
    add('--resolutions', nargs='+', type=positive, default=RESOLUTIONS, metavar='N', help=text)
    text = f'of {", ".join(FAMILIES)} (both); ratios are to the first'
    add('--models', nargs='+', choices=FAMILIES, default=FAMILIES, metavar='NAME', help=text)
    text = 'size of the models (base, as in the paper)'
    add('--scale', choices=SCALES, default='base', help=text)
    args = parser.parse_args(argv)
    for side in args.resolutions:
        if side % STRIDE:
            raise UserError(f'--resolutions are multiples of {STRIDE}, got {side}')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Count, check, time and report."""
    args = parse_args(argv)
    check_timm([f'{name}-{args.scale}' for name in args.models])
    names = len(args.models) * (2 if args.compile else 1)
    samples = len(args.resolutions) * names * args.repetitions
    points: list[dict] = []
    with Benchmark('resolution', args, samples, args.scale) as bench:
        bench.record['points'] = points
        for side in args.resolutions:
            # A comparison with float64 takes its time: once is enough.
            points += measure_at(bench, side, check=side == min(args.resolutions))
            bench.write()
            release(args.device)
    show(bench, points)
    bench.draw('images_per_second', 'peak_bytes', 'flops')


def measure_at(bench: Benchmark, side: int, check: bool) -> list[dict]:
    """Count and time all models at one resolution: a point for every model.

    Args:
        bench: The run.
        side: Side of the images.
        check: Whether to compare ours with float64.
    """
    args = bench.args
    group = Group(
        name=str(side),
        what=f'{args.scale} classifier at {side}',
        path='classifier',
        shape=(args.batch, 3, side, side),
        dtype=DTYPES[args.dtype],
        device=args.device,
    )
    builders = {name: partial(build, name, args.scale, side) for name in args.models}
    timed = time_models(bench, group, builders, ['throughput'], check=check)
    rows = {row.name: row for row in timed}
    failures = {one['name']: one['why'] for one in bench.failures if one['group'] == group.name}
    points = []
    for model in args.models:
        counted = vars(count(model, args.scale, side))
        for name in (model, f'{model} compiled') if args.compile else (model,):
            point = {'resolution': side, 'name': name, **counted, 'failure': failures.get(name)}
            if row := rows.get(name):
                row.figures['flops'] = counted['flops']
                texts = {'seconds': str(row.seconds), 'ratio': str(row.ratio)}
                point |= row.figures | texts | {'baseline': row.baseline}
            points.append(point)
    return points


def build(name: str, scale: str, side: int) -> nn.Module:
    """Build a model for images of one size."""
    return build_model(name, scale, (side, side), window=side // STRIDE)


def count(name: str, scale: str, side: int) -> Count:
    """Count a model's multiply-adds for one image, ours in the form with k computed beforehand."""
    with torch.device('meta'):
        model = build(name, scale, side)
    return count_model(model, (side, side), inference_form=True)


def show(bench: Benchmark, points: Sequence[dict]) -> None:
    """Print the table."""
    lines = []
    for point in points:
        line = [f'{point["resolution"]} {point["name"]}', f'{point["flops"] / 1e9:.4g}']
        if point['failure']:
            line += [point['failure'], '-', '-']
        else:
            peak = point['peak_bytes']
            line += [f'{point["images_per_second"]:.4g}', point['ratio']]
            line.append('not measured' if peak is None else f'{peak / GIB:.2f}')
        lines.append(line)
    header = ('', 'GFLOPs', 'images/s', f'times {bench.args.models[0]}', 'peak GiB')
    bench.table('Inference over the resolution', header, lines)


if __name__ == '__main__':
    run(main)
