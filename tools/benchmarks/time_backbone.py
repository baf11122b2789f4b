"""What ``backbone.py`` does: compare, time and report models, for inference and for training."""

import argparse
import copy
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from agreement import Disagreement, check_inference, check_training
from harness import Benchmark, release
from models import Group, build_model, build_published, check_timm, groups_of, load_published
from options import OURS, PHASES, PUBLISHED
from product import Product, products_of
from runtimes import Exported, Graphs, need_runtime
from timing import Spread, Timed
from torch import Tensor, nn

from mmvheat.errors import UserError
from mmvheat.models import VHeat
from mmvheat.models.counting import count_model

MIB = 2**20


def benchmark(args: argparse.Namespace) -> None:
    """Check, time and report what the command line asks for."""
    check_timm(args.models)
    groups = groups_of(args.models, args.published is not None)
    for scale, families in groups.items():
        names = [f'{name}{form}' for name in families for form in ['', *forms_of(args, name)]]
        if args.baseline and args.baseline not in names:
            raise UserError(
                f'--baseline {args.baseline}: the {scale} models are {", ".join(names)}'
            )
    for runtime in args.runtime:
        need_runtime(runtime)
    published = load_published(args.published) if args.published else None
    size = tuple(args.size)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    inference = [phase for phase in args.phases if phase != 'training']
    parts = [inference, ['training'] if 'training' in args.phases else []]
    products = products_of(args.device)
    samples = args.repetitions * sum(
        sum(1 + len(forms_of(args, family, phase)) for family in families) + len(products)
        for families in groups.values()
        for phase in args.phases
    )
    what = f'{args.path}, {size[0]} x {size[1]}'
    with Benchmark('backbone', args, samples, what) as bench:
        for scale, families in groups.items():
            for phases in filter(None, parts):
                training = phases == ['training']
                builders = {
                    name: partial(build_published, published, scale, size, args.path, training)
                    if name == PUBLISHED
                    else partial(build_model, name, scale, size, args.path)
                    for name in families
                }
                group = Group(
                    name=scale,
                    what=f'{scale} {args.path}',
                    path=args.path,
                    shape=(args.batch, 3, *size),
                    dtype=getattr(torch, args.dtype),
                    device=args.device,
                    layout=layout,
                )
                baselines = (args.baseline, PUBLISHED, OURS)
                forms = {name: forms_of(args, name, phases[0]) for name in families}
                rows = time_models(
                    bench, group, builders, phases, baselines, forms, args.compile_limit, products
                )
                for product in products:
                    if product.dtype == group.dtype:
                        ran = dict.fromkeys(row.name.partition(' ')[0] for row in rows)
                        flops = {name: count_flops(name, scale, size, args.path) for name in ran}
                        add_shares(rows, flops, args.batch, product)
                        bench.write()
                show(bench, scale, form_of(phases), rows, products)
                del group
                release(args.device)
    bench.draw()


def forms_of(args: argparse.Namespace, family: str, phase: str = 'throughput') -> list[str]:
    """What is added to the name of a model for each further form of it that a phase times."""
    packed = [' packed'] if args.pack and family == OURS and phase != 'training' else []
    compiled = [' compiled'] if args.compile else []
    exported = [f' {name}' for name in args.runtime if phase != 'training']
    return packed + compiled + exported


def form_of(phases: Sequence[str]) -> str:
    """Whether phases are of training or of inference."""
    return 'training' if 'training' in phases else 'inference'


def time_models(
    bench: Benchmark,
    group: Group,
    builders: Mapping[str, Callable[[], nn.Module]],
    phases: Sequence[str],
    baselines: Sequence[str | None] = (),
    forms: Mapping[str, Sequence[str]] | None = None,
    compile_limit: float | None = None,
    products: Sequence[Product] = (),
    check: bool = True,
) -> list[Timed]:
    """Build, check and time models, for inference or for training.

    Args:
        bench: The run.
        group: What the models are given; they are put there.
        builders: What builds each model.
        phases: What to time: training, or phases of inference.
        baselines: See :meth:`Benchmark.time`.
        forms: Further forms of models by name, see :func:`forms_of`.
        compile_limit: Seconds after which no further model is compiled.
        products: Matrix products to time in the same rounds.
        check: Whether to compare models that are not compiled or exported, too.
    """
    args, training = bench.args, 'training' in phases
    calls: dict[str, dict[str, Callable[[], object]]] = {phase: {} for phase in phases}
    figures: dict[str, dict[str, int | None]] = {}
    optimizers: dict[str, torch.optim.Optimizer] = {}
    graphs: dict[str, Graphs] = {}
    forms = forms or {}
    if any(' compiled' in some for some in forms.values()):
        torch.compiler.reset()
    began = time.perf_counter()
    for eager, build in builders.items():
        for name in (eager, *(f'{eager}{form}' for form in forms.get(eager, ()))):
            # A compiler that is wrong about others is no reason to say nothing about ours.
            also = (Disagreement,) if name != eager and eager != OURS else ()
            where = {'group': group.name, 'form': form_of(phases)}
            with bench.attempt(name, args.repetitions * len(phases), also, **where):
                if name == eager:
                    _ = group.images  # They come before the memory of a model is counted.
                    before = allocated(group.device)
                    group.add(name, build, training)
                elif eager not in group.models:
                    raise RuntimeError(f'{eager} did not run')
                elif name.endswith(' packed'):
                    group.models[name] = packed(group.models[eager])
                elif not name.endswith(' compiled'):
                    if eager not in graphs:
                        graphs[eager] = Graphs(group.models[eager])
                    runtime = name.removeprefix(f'{eager} ')
                    group.models[name] = Exported(graphs[eager], runtime, group.dtype)
                elif compile_limit is not None and time.perf_counter() - began > compile_limit:
                    raise TimeoutError(f'not compiled: {compile_limit:g} s had passed')
                else:
                    model = group.models[eager]
                    group.models[name] = torch.compile(model, dynamic=False, backend=args.compile)
                if name == PUBLISHED and OURS not in group.models:
                    raise RuntimeError(f'{OURS}, which it is compared with, did not run')
                if training:
                    found = check_training(group, name, eager)
                    # A rate of 0 costs the same, and keeps the weights equal to those compared.
                    optimizer = torch.optim.AdamW(group.models[name].parameters(), lr=0.0)
                    optimizer = optimizers.setdefault(eager, optimizer)
                    prepared = {'training': partial(train_step, group, name, optimizer)}
                else:
                    wanted, alone = check or name != eager, 'latency' in phases
                    found = check_inference(group, name, eager, alone) if wanted else []
                    prepared = {
                        'throughput': partial(group.infer, name, group.images),
                        'latency': partial(group.infer, name, group.one),
                    }
                bench.agreements += found
                for one in found:
                    bench.say('agrees: {of} with {against}, error {error:.1e}'.format(**one))
                batch = next(iter(prepared.values()))
                batch()
                figures[name] = {'peak_bytes': peak_bytes(batch, group.device, before)}
                if training:
                    optimizer.zero_grad()
                    saved = saved_for_backward(group.models[name], partial(group.loss, name))
                    figures[name]['saved_for_backward_bytes'] = saved
                for phase in phases:
                    calls[phase][name] = prepared[phase]
            if name not in calls[phases[0]]:
                # The weights of what cannot run would take the room of the next.
                group.models.pop(name, None)
                release(group.device)
    rows = []
    for phase, candidates in calls.items():
        alone = phase == 'latency'
        yardsticks = {product.name: product.run for product in products}
        for row in bench.time(phase, group.name, candidates, baselines, alone, yardsticks):
            row.figures['images_per_second'] = (1 if alone else args.batch) / row.seconds.median
            if not alone:
                row.figures |= figures[row.name]
            rows.append(row)
    bench.write()
    return rows


def packed(model: nn.Module) -> nn.Module:
    """Copy a model of ours and pack its weights."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, VHeat):
            module.pack()
    return model


def count_flops(family: str, scale: str, size: tuple[int, int], path: str) -> float:
    """Multiplications and additions of a model for one image, vHeat's in its inference form."""
    # The published code computes the same as ours.
    family = OURS if family == PUBLISHED else family
    with torch.device('meta'):
        model = build_model(family, scale, size, path)
    return 2 * count_model(model, size, inference_form=True).flops


def add_shares(
    rows: Sequence[Timed], flops: Mapping[str, float], batch: int, product: Product
) -> None:
    """Add to the figures of what was timed its share of the speed of a matrix product.

    Args:
        rows: What was timed.
        flops: What one image takes, by the first word of a candidate's name. A training step takes
            three times as much: its backward pass has two products for each of the forward pass.
        batch: Number of images.
        product: What was timed in the same rounds.
    """
    for row in rows:
        images = {'latency': 1, 'training': 3 * batch}.get(row.measure, batch)
        work = flops[row.name.partition(' ')[0]] * images
        pairs = zip(row.yardsticks[product.name], row.samples, strict=True)
        shares = [(work / own) / (product.flops / theirs) for theirs, own in pairs]
        row.figures |= {'flops': work, 'share_of_product': Spread.of(shares)}


def train_step(group: Group, name: str, optimizer: torch.optim.Optimizer) -> None:
    """The training step that is timed."""
    optimizer.zero_grad()
    group.loss(name).backward()
    optimizer.step()


def allocated(device: torch.device) -> int:
    """Bytes that are in use on a GPU."""
    return torch.cuda.memory_allocated(device) if device.type == 'cuda' else 0


def peak_bytes(run: Callable[[], object], device: torch.device, before: int) -> int | None:
    """Most bytes in use on a GPU while ``run`` runs, beyond those ``before``; None on a CPU."""
    if device.type != 'cuda':
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def saved_for_backward(module: nn.Module, forward: Callable[[], object]) -> int:
    """Bytes of the saved tensors between forward and backward, the parameters not counted.

    Args:
        module: Its parameters are what is not counted.
        forward: Runs it with gradients and returns what holds the graph.
    """
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # Held until all is counted: the address of freed memory would be given out again.
        graph = forward()
    total = sum(kept.values())
    del graph
    return total


def show(
    bench: Benchmark,
    scale: str,
    form: str,
    rows: Sequence[Timed],
    products: Sequence[Product] = (),
) -> None:
    """Print the tables of one group."""
    failures = [one for one in bench.failures if (one['group'], one['form']) == (scale, form)]
    for phase in dict.fromkeys(row.measure for row in rows):
        own = [row for row in rows if row.measure == phase]
        header = [scale, 'ms', 'images/s', f'times {own[0].baseline}']
        has_shares = any('share_of_product' in row.figures for row in own)
        header += ['share of product'] if has_shares else []
        header += ['peak MiB'] if phase != 'latency' else []
        header += ['saved MiB'] if phase == 'training' else []
        lines = []
        for row in own:
            line = [row.name, row.seconds * 1e3, f'{row.figures["images_per_second"]:.4g}']
            line.append(row.ratio)
            if has_shares:
                line.append(row.figures['share_of_product'])
            for key in ('peak_bytes', 'saved_for_backward_bytes'):
                if key in row.figures:
                    size = row.figures[key]
                    line.append('not measured' if size is None else f'{size / MIB:.0f}')
            lines.append(line)
        lines += [[one['name'], one['why'], *['-'] * (len(header) - 2)] for one in failures]
        title = PHASES[phase].format(bench.args.batch)
        bench.table(title, header, lines)
        for product in products:
            seconds = own[0].yardsticks[product.name]
            speed = Spread.of([product.flops / one / 1e9 for one in seconds])
            bench.say(f'{product.name}: {speed} GFLOP/s')
