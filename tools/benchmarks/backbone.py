"""Time vHeat against the published code, Swin and ConvNeXt: inference and training steps.

Before a model is timed its result is compared: ours with float64, the published code with ours
(they have the same weights), a compiled model with itself before. Nothing is reported of a result
that disagrees.
"""

import argparse
import copy
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from agreement import Agreement, distance, require_agreement, worst_error
from countdown import Countdown
from failures import noting_failure
from memory import PeakMemory, release, saved_for_backward
from options import DTYPES, add_options, autocast, check_options, positive, size
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
    published_name,
    timm_is_there,
)
from results import Results, Timed, figure, format_spread, save_figure, table
from stopping import until_stopped
from timing import measure
from torch import Tensor, nn

from mmvheat.command_line import OneLineParser
from mmvheat.engine.errors import CommandLineError, run_command

PHASES = ('throughput', 'latency', 'training')
SIZES = {'classifier': [224, 224], 'detection': [800, 1333]}
CLASSES = 1000
MIB = 2**20

# Of the largest value of the output.
OUTPUT_TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# cuDNN computes the convolutions of float32 in TF32.
TF32_TOLERANCE = 5e-3
# Of the length of all gradients; what low precision rounds adds up on the way back.
GRADIENT_TOLERANCES = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}


@dataclass
class Group:
    """Models of one size in one form, what they are given, and what is found out about them.

    Attributes:
        scale: Their size.
        models: The models by name, ``'... compiled'`` among them.
        images: Images for all.
        labels: Their classes.
        args: The command line.
        failures: Why a model cannot run.
        agreements: Results that were compared.
        peaks: Peak bytes on the GPU by name.
        saved: Bytes kept for the backward pass by name.
        optimizers: One for a model and itself compiled.
    """

    scale: str
    models: dict[str, nn.Module]
    images: Tensor
    labels: Tensor
    args: argparse.Namespace
    failures: dict[str, str] = field(default_factory=dict)
    agreements: list[Agreement] = field(default_factory=list)
    peaks: dict[str, int | None] = field(default_factory=dict)
    saved: dict[str, int] = field(default_factory=dict)
    optimizers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        """The precision that is timed."""
        return DTYPES[self.args.dtype]

    @property
    def output_tolerance(self) -> float:
        """How far outputs may be from each other."""
        if self.images.is_cuda and self.dtype == torch.float32:
            return TF32_TOLERANCE
        return OUTPUT_TOLERANCES[self.dtype]

    def compare(self, of: str, against: str, error: float, tolerance: float) -> None:
        """Compare two models' results."""
        precision = '' if ' in float32' in of else f' in {self.args.dtype}'
        what = f'{self.scale} {self.args.path}: {of}{precision}'
        self.agreements.append(require_agreement(what, against, error, tolerance))


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
        raise CommandLineError(
            f'--baseline {args.baseline}: the {scale} models are {", ".join(names)}'
        )


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


def check_inference(group: Group, own: str, eager: str, one: Tensor) -> None:
    """Compare a model's outputs with what they have to be."""
    model, images, tolerance = group.models[own], group.images, group.output_tolerance
    exact = OUTPUT_TOLERANCES[torch.float32]
    if own != eager:
        # One image is another graph, which has to be compiled and right as well.
        for batch in [images] + [one] * ('latency' in group.args.phases):
            reference = infer(group, group.models[eager], batch)
            error = worst_error(infer(group, model, batch), reference)
            group.compare(f'{own} at batch {len(batch)}', eager, error, tolerance)
    elif own == OURS:
        wide = copy.deepcopy(model).double()
        with torch.no_grad():
            truth = as_tensors(wide(one.double()))
        # What low precision rounds could hide a mistake, so float32 is compared in any case.
        with without_tf32():
            error = worst_error(infer(group, model, one, torch.float32), truth)
        group.compare(f'{own} in float32', 'float64', error, exact)
        if group.dtype != torch.float32:
            error = worst_error(infer(group, model, one), truth)
            group.compare(own, 'float64', error, tolerance)
    elif own == PUBLISHED:
        ours = group.models[OURS]
        form = own + (' (inference form)' if group.args.path == 'classifier' else '')
        with without_tf32():
            theirs = infer(group, model, one, torch.float32)
            error = worst_error(infer(group, ours, one, torch.float32), theirs)
        group.compare(f'{OURS} in float32', form, error, exact)
        error = worst_error(infer(group, ours, images), infer(group, model, images))
        group.compare(f'{OURS} at batch {len(images)}', form, error, tolerance)


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


def check_training(group: Group, own: str, eager: str) -> None:
    """Compare a model's gradients with what they have to be."""
    model = group.models[own]
    if own != eager:
        error = distance(gradients(group, model), gradients(group, group.models[eager]))
        group.compare(own, f'{eager} (gradients)', error, GRADIENT_TOLERANCES[group.dtype])
    elif own == PUBLISHED:
        ours = group.models[OURS]
        names = [published_name(name, group.args.path) for name, _ in ours.named_parameters()]
        # In float32 and on two images: this is about the mathematics.
        with without_tf32():
            theirs = gradients(group, model, names, images=2, dtype=torch.float32)
            mine = gradients(group, ours, images=2, dtype=torch.float32)
        tolerance = GRADIENT_TOLERANCES[torch.float32]
        group.compare(f'{OURS} in float32', f'{own} (gradients)', distance(mine, theirs), tolerance)


def infer(
    group: Group, model: nn.Module, images: Tensor, dtype: torch.dtype | None = None
) -> list[Tensor]:
    """Run a model as it is used for inference, in the precision that is timed or another."""
    with torch.no_grad(), autocast(images.device, dtype or group.dtype):
        return as_tensors(model(images))


@contextmanager
def without_tf32() -> Iterator[None]:
    """Let cuDNN compute float32 convolutions in float32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def loss_of(
    group: Group, model: nn.Module, images: int | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Cross entropy of logits; of maps the mean square, as a detector's heads are not timed."""
    batch, labels = group.images[:images], group.labels[:images]
    with autocast(batch.device, dtype or group.dtype):
        outputs = as_tensors(model(batch))
        if group.args.path == 'classifier':
            return F.cross_entropy(outputs[0], labels)
    return sum(one.float().square().mean() for one in outputs)


def gradients(
    group: Group,
    model: nn.Module,
    names: list[str] | None = None,
    images: int | None = None,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Gradients of all parameters, or of the named ones in their order."""
    parameters = dict(model.named_parameters())
    wanted = [parameters[name] for name in names or parameters]
    return list(torch.autograd.grad(loss_of(group, model, images, dtype), wanted))


def as_tensors(outputs: Tensor | list[Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
    """Logits or maps, always as a list."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


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
