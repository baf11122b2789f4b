"""Time vHeat against the published code, Swin and ConvNeXt: inference and training steps.

Before a model is timed its result is compared (``group.py``); nothing is reported of one that
disagrees.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from countdown import Countdown
from failures import noting_failure
from group import Group, check_inference, check_training, infer, loss_of
from memory import PeakMemory, release, saved_for_backward
from options import add_options, check_options, positive, size
from peers import (
    MODELS,
    OURS,
    PATHS,
    PUBLISHED,
    build_model,
    build_published,
    check_timm,
    groups_of,
    load_published,
    timm_is_there,
)
from results import Results, Timed, figure, format_spread, save_figure, table
from stopping import until_stopped
from timing import measure

from mmvheat.command_line import OneLineParser, run_command
from mmvheat.errors import UserError

PHASES = ('throughput', 'latency', 'training')
SIZES = {'classifier': [224, 224], 'detection': [800, 1333]}
CLASSES = 1000
MIB = 2**20


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = OneLineParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        '--models',
        nargs='+',
        metavar='NAME',
        help=f'of {", ".join(MODELS)}; ratios are within a size (all but micro)',
    )
    parser.add_argument(
        '--published',
        type=Path,
        metavar='PATH',
        help='a clone of the published repository, to time its code with the weights of ours',
    )
    parser.add_argument(
        '--path',
        choices=PATHS,
        default='classifier',
        help='what is timed: images to logits, or images to the maps of all stages',
    )
    parser.add_argument(
        '--size',
        nargs='+',
        type=positive,
        metavar='N',
        help='height and width of the images, or one number for both (224; detection 800 1333)',
    )
    parser.add_argument('--batch', type=positive, default=8, metavar='N', help='images (8)')
    parser.add_argument(
        '--phases',
        nargs='+',
        choices=PHASES,
        default=list(PHASES),
        help='inference of a batch, inference of one image, training steps',
    )
    parser.add_argument(
        '--baseline',
        metavar='NAME',
        help='whose time is over the others: published if it is timed, else vheat',
    )
    parser.add_argument(
        '--channels-last', action='store_true', help="all models and images in torch's layout NHWC"
    )
    parser.add_argument(
        '--compile-limit',
        type=float,
        default=math.inf,
        metavar='SECONDS',
        help='compile no further model of a size when preparing them has taken so long',
    )
    add_options(parser, repetitions=10)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Check, time and report."""
    args = parse_args(argv)
    args.size = list(size(args.size or SIZES[args.path]))
    if args.models is None:
        args.models = [name for name in MODELS if not name.endswith('-micro')]
        if not timm_is_there():
            args.models = [name for name in args.models if name.startswith(OURS)]
            sys.stderr.write('timm is not installed: Swin and ConvNeXt are left out\n')
    check_timm(args.models)
    groups = groups_of(args.models, args.published is not None)
    for scale, families in groups.items():
        check_baseline(args, scale, families)
    device = check_options(args)
    published = load_published(args.published) if args.published else None
    results = Results('backbone', vars(args), device, args.json)
    machine = results.record['environment']
    print(
        f'{machine["device"]}, torch {machine["torch"]}, {args.dtype}, {args.path}, '
        f'{args.size[0]} x {args.size[1]}, batch {args.batch}'
    )
    each = sum(map(len, groups.values())) * (2 if args.compile else 1) * args.repetitions
    rows: list[Timed] = []
    with until_stopped(), Countdown(each * len(args.phases)) as countdown:
        for scale, families in groups.items():
            for training in (False, True):
                phases = [p for p in args.phases if (p == 'training') == training]
                if not phases:
                    continue
                group, timed = time_group(
                    scale, families, phases, args, device, published, countdown
                )
                rows += timed
                results.add(group.agreements, timed, failures=failures_of(results, group))
                show(group, timed)
                del group
                release(device)
        results.finish()
    if args.plot:
        draw(rows, args)


def check_baseline(args: argparse.Namespace, scale: str, families: list[str]) -> None:
    """Refuse a baseline that a group has not."""
    names = families + [f'{name} compiled' for name in families if args.compile]
    if args.baseline and args.baseline not in names:
        raise UserError(f'--baseline {args.baseline}: the {scale} models are {", ".join(names)}')


def failures_of(results: Results, group: Group) -> list[dict]:
    """All failures up to now, as JSON has them."""
    known = results.record.get('failures', [])
    form = 'training' if next(iter(group.models.values())).training else 'inference'
    new = [
        {'group': group.scale, 'form': form, 'name': name, 'why': why}
        for name, why in group.failures.items()
    ]
    return known + new


def time_group(
    scale: str,
    families: list[str],
    phases: list[str],
    args: argparse.Namespace,
    device: torch.device,
    published: ModuleType | None,
    countdown: Countdown,
) -> tuple[Group, list[Timed]]:
    """Build, check and time the models of one size, for inference or for training."""
    training = phases == ['training']
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    generator = torch.Generator(device).manual_seed(0)
    images = torch.randn(args.batch, 3, *args.size, generator=generator, device=device)
    images = images.to(memory_format=layout)
    labels = torch.randint(CLASSES, (args.batch,), generator=generator, device=device)
    group = Group(scale, {}, images, labels, args)
    if args.compile:
        torch.compiler.reset()
    calls: dict[str, dict[str, Callable[[], object]]] = {phase: {} for phase in phases}
    prepare = prepare_training if training else prepare_inference
    began = time.perf_counter()
    for name in families:
        peak = PeakMemory(device)
        with device:
            if name == PUBLISHED:
                model = build_published(
                    published, scale, group.models[OURS], tuple(args.size), args.path, training
                )
            else:
                model = build_model(name, scale, tuple(args.size), args.path)
        model.train(training).to(device, memory_format=layout)
        for own, compiled in {name: False, f'{name} compiled': True}.items():
            if compiled and not args.compile:
                continue
            group.models[own] = model
            if compiled:
                group.models[own] = torch.compile(model, dynamic=False, backend=args.compile)
            # A compiler that is wrong about others is no reason to be silent about ours.
            must_agree = name == OURS or not compiled
            with noting_failure(group.failures, own, must_agree):
                if compiled and time.perf_counter() - began > args.compile_limit:
                    raise TimeoutError(f'not compiled: {args.compile_limit:g} s had passed')
                prepared = prepare(group, own, name, peak)
                for phase in phases:
                    calls[phase][own] = prepared[phase]
            if own in group.failures:
                countdown.tick(own, args.repetitions * len(phases))
                sys.stderr.write(f'{own} ({scale}): {group.failures[own]}\n')
    rows = []
    for phase, candidates in calls.items():
        if not candidates:
            continue
        samples = measure(
            candidates,
            device,
            args.repetitions,
            args.sample_ms / 1e3,
            each_alone=phase == 'latency',
            tick=lambda name, phase=phase: countdown.tick(f'{name} ({scale}), {phase}'),
        )
        timed = Timed.all_of(phase, scale, samples, baseline_of(args, samples))
        for row in timed:
            count = 1 if phase == 'latency' else args.batch
            row.figures = {'images_per_second': count / row.seconds.median}
            if phase != 'latency':
                row.figures['peak_bytes'] = group.peaks[row.name]
            if phase == 'training':
                row.figures['saved_for_backward_bytes'] = group.saved[row.name]
        rows += timed
    return group, rows


def baseline_of(args: argparse.Namespace, samples: dict[str, list[float]]) -> str:
    """The baseline, or the next best one if it could not run."""
    wanted = [args.baseline, PUBLISHED, OURS, *samples]
    return next(name for name in wanted if name in samples)


def prepare_inference(
    group: Group, own: str, eager: str, peak: PeakMemory
) -> dict[str, Callable[[], object]]:
    """Check a model and give the calls that are timed.

    Args:
        group: Its group.
        own: Its name.
        eager: Its name before it was compiled.
        peak: Counts its memory.
    """
    model, images = group.models[own], group.images
    one = images[:1].clone(memory_format=torch.preserve_format)
    # A function of its own: what it compares must not be counted as memory of the model.
    check_inference(group, own, eager, one)
    infer(group, model, images)
    group.peaks[own] = peak.of(lambda: infer(group, model, images))
    return {
        'throughput': lambda: infer(group, model, images),
        'latency': lambda: infer(group, model, one),
    }


def prepare_training(
    group: Group, own: str, eager: str, peak: PeakMemory
) -> dict[str, Callable[[], object]]:
    """Check a model's gradients and give the training step, as :func:`prepare_inference`."""
    model = group.models[own]
    check_training(group, own, eager)
    if own == eager:
        # The same arithmetic as with any rate, but the weights stay equal to those compared with.
        group.optimizers[own] = torch.optim.AdamW(model.parameters(), lr=0.0)
    optimizer = group.optimizers[eager]

    def step() -> None:
        optimizer.zero_grad()
        loss_of(group, model).backward()
        optimizer.step()

    step()
    group.peaks[own] = peak.of(step)
    optimizer.zero_grad()
    group.saved[own] = saved_for_backward(model, lambda: loss_of(group, model))
    return {'training': step}


def show(group: Group, rows: list[Timed]) -> None:
    """Print the tables of one group."""
    titles = {
        'throughput': f'inference, batch {group.args.batch}',
        'latency': 'inference, one image',
        'training': f'training step (AdamW), batch {group.args.batch}',
    }
    for phase, title in titles.items():
        own = [row for row in rows if row.measure == phase]
        if not own:
            continue
        header = [group.scale, 'ms', 'images/s', f'times {own[0].baseline}']
        header += ['peak MiB'] if phase != 'latency' else []
        header += ['saved MiB'] if phase == 'training' else []
        lines = []
        for row in own:
            line = [
                row.name,
                format_spread(row.seconds, 1e3),
                f'{row.figures["images_per_second"]:.4g}',
                format_spread(row.ratio),
            ]
            if phase != 'latency':
                peak = row.figures['peak_bytes']
                line.append('not measured' if peak is None else f'{peak / MIB:.0f}')
            if phase == 'training':
                line.append(f'{row.figures["saved_for_backward_bytes"] / MIB:.0f}')
            lines.append(line)
        for name, why in group.failures.items():
            lines.append([name, why, *['-'] * (len(header) - 2)])
        table(f'vHeat and others of the same size, {title} (median [quartiles])', header, lines)
    for one in group.agreements:
        print(f'agrees: {one.of} with {one.against}, error {one.error:.1e} <= {one.tolerance:.0e}')
    sys.stdout.flush()


def draw(rows: list[Timed], args: argparse.Namespace) -> None:
    """Draw bars of the ratios."""
    most = max((sum(row.measure == phase for row in rows) for phase in args.phases), default=0)
    drawn, axes = figure(len(args.phases), height=1.5 + 0.25 * most)
    for phase, axis in zip(args.phases, axes, strict=True):
        own = [row for row in rows if row.measure == phase]
        labels = [f'{row.group} {row.name}' for row in own]
        values = [row.ratio.median for row in own]
        low = [row.ratio.median - row.ratio.low for row in own]
        high = [row.ratio.high - row.ratio.median for row in own]
        colors = ['tab:red' if row.name.startswith(OURS) else 'tab:gray' for row in own]
        axis.barh(labels, values, xerr=[low, high], color=colors, capsize=2)
        axis.invert_yaxis()
        axis.axvline(1, color='black', linewidth=0.8)
        baselines = ', '.join(dict.fromkeys(row.baseline for row in own))
        axis.set(title=phase, xlabel=f'times as fast as {baselines}')
    save_figure(drawn, args.plot)


if __name__ == '__main__':
    sys.exit(run_command(main))
