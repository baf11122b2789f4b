"""What ``resolution.py`` does: count, compare, time and report models at every resolution."""

import argparse
from collections.abc import Sequence
from functools import partial

import torch
from harness import Benchmark, release
from models import Group, build_model, check_timm
from options import STRIDE
from time_backbone import time_models
from torch import nn

from mmvheat.models.counting import Count, count_model

GIB = 2**30


def benchmark(args: argparse.Namespace) -> None:
    """Count, check, time and report what the command line asks for."""
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
        dtype=getattr(torch, args.dtype),
        device=args.device,
    )
    builders = {name: partial(build, name, args.scale, side) for name in args.models}
    forms = dict.fromkeys(builders, [' compiled'] if args.compile else [])
    timed = time_models(bench, group, builders, ['throughput'], forms=forms, check=check)
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
