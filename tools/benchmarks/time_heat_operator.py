"""What ``heat_operator.py`` does: compare, time and report ways of conduction."""

import argparse
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import conduction
import torch
from agreement import require_agreement, worst_error
from harness import Benchmark, release
from timing import Spread, Timed
from torch import Tensor

from mmvheat.ops import heat_conduction
from mmvheat.ops.reference import heat_conduction_reference

Operator = Callable[[Tensor, Tensor], Tensor]

COPY = 'copy'
SMALL = (2, 6, 9, 4)

# Relative to the largest value; gradients of k are sums over the batch and rounded more often.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}


def benchmark(args: argparse.Namespace) -> None:
    """Check, time and report what the command line asks for."""
    operators = {name: getattr(conduction, name) for name in args.operators}
    squares = [(side, side, args.exponent_channels) for side in args.exponent_sizes]
    shapes = dict.fromkeys((*args.maps, *squares))
    compiled = 2 if args.compile else 1
    names = sum(1 + compiled * len(running_in(mode, operators)) for mode in args.modes)
    samples = len(shapes) * names * args.repetitions
    with Benchmark('heat_operator', args, samples, 'heat conduction') as bench:
        check_small(bench, operators)
        for shape in shapes:
            time_map(bench, operators, shape)
            release(args.device)
    bench.record['exponents'] = fit_exponents(bench.rows, squares)
    bench.write()
    show(bench)
    bench.draw('seconds', 'share_of_copy')


def running_in(mode: str, operators: Mapping[str, Operator]) -> dict[str, Operator]:
    """Leave out the operator that works in-place, for no gradient, in a mode with gradients."""
    in_place = () if mode == 'forward' else ('rows', 'images')
    return {name: operator for name, operator in operators.items() if name not in in_place}


def check_small(bench: Benchmark, operators: Mapping[str, Operator]) -> None:
    """Compare every operator with the reference, on a map small enough for that."""
    device, dtype = bench.args.device, getattr(torch, bench.args.dtype)
    x, k, _ = make_inputs(SMALL[1:], SMALL[0], device, torch.float32)
    for name, operator in operators.items():
        for precision in dict.fromkeys((torch.float32, dtype)):
            result = operator(x.to(precision), k)
            error = worst_error(result, heat_conduction_reference(x.to(precision), k))
            in_precision = str(precision).removeprefix('torch.')
            of = f'operator {name} in {in_precision} at {shape_name(SMALL[1:])}'
            against, tolerance = 'mmvheat.ops.reference', TOLERANCES[precision]
            bench.agreements.append(require_agreement(of, against, error, tolerance))


def time_map(
    bench: Benchmark, operators: Mapping[str, Operator], shape: tuple[int, int, int]
) -> None:
    """Check and time all operators on one map, in all modes."""
    args, group = bench.args, shape_name(shape)
    dtype = getattr(torch, args.dtype)
    x, k, seed = make_inputs(shape, args.batch, args.device, dtype)
    compiled = {}
    if args.compile:
        # All maps compile the same function, and dynamo gives up after a few recompilations.
        torch.compiler.reset()
        compiled = {
            name: torch.compile(operator, dynamic=False, backend=args.compile)
            for name, operator in operators.items()
        }
    for mode in args.modes:
        calls: dict[str, Callable[[], object]] = {COPY: x.clone}
        # One map is enough to compare, and all that float64 may have room for.
        few = x[:1], k, seed[:1]
        truth = call_of(heat_conduction, mode, *(one.double() for one in few))()
        named = {f'{name} compiled': one for name, one in running_in(mode, compiled).items()}
        for name, operator in (running_in(mode, operators) | named).items():
            with bench.attempt(name, args.repetitions, measure=mode, group=group):
                result = call_of(operator, mode, *few)()
                for part, one, reference in zip(('map', 'dx', 'dk'), result, truth, strict=False):
                    of = f'operator {name} ({part}) in {args.dtype} at {group}'
                    error = worst_error(one, reference)
                    agreement = require_agreement(of, 'float64', error, TOLERANCES[dtype])
                    bench.agreements.append(agreement)
                call = call_of(operator, mode, x, k, seed)
                call()
                calls[name] = call

        copied, moved = (moved_bytes(x, k, what) for what in (COPY, mode))
        for row in bench.time(mode, group, calls):
            own = copied if row.name == COPY else moved
            row.figures['bytes'] = own
            row.figures['bytes_per_second'] = own / row.seconds.median
            row.figures['share_of_copy'] = row.ratio * (own / copied)
        bench.write()


def make_inputs(
    shape: Sequence[int], batch: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Map, diffusivity and gradient; the same at every call."""
    generator = torch.Generator(device).manual_seed(0)
    x, seed = (
        torch.randn(batch, *shape, generator=generator, device=device).to(dtype) for _ in range(2)
    )
    # Small enough for all frequencies to be seen in the result.
    k = 0.2 * torch.rand(*shape, generator=generator, device=device)
    return x, k, seed


def call_of(
    operator: Operator, mode: str, x: Tensor, k: Tensor, seed: Tensor
) -> Callable[[], list[Tensor]]:
    """The call that is timed: it gives the map and, with a backward pass, both gradients."""
    if mode == 'forward':
        return torch.no_grad()(lambda: [operator(x, k)])
    x, k = x.detach().requires_grad_(), k.detach().requires_grad_()

    def call() -> list[Tensor]:
        result = operator(x, k)
        return [result.detach(), *torch.autograd.grad(result, (x, k), seed)]

    return call


def moved_bytes(x: Tensor, k: Tensor, mode: str) -> int:
    """Bytes moved if each input is read once and each output written once.

    Backward reads the gradient, the map and the diffusivity, and writes the gradients of both.
    """
    maps, diffusivities = {COPY: (2, 0), 'forward': (2, 1), 'forward+backward': (5, 3)}[mode]
    return maps * x.nbytes + diffusivities * k.nbytes


def fit_exponents(rows: Sequence[Timed], squares: Sequence[Sequence[int]]) -> list[dict]:
    """Fit the exponent of every operator that ran at all sizes, round by round."""
    tokens = {shape_name(shape): shape[0] * shape[1] for shape in squares}
    found = []
    for mode, name in dict.fromkeys((row.measure, row.name) for row in rows if squares):
        own = [r for r in rows if (r.measure, r.name) == (mode, name) and r.group in tokens]
        if len(own) == len(tokens):
            sizes = [tokens[row.group] for row in own]
            rounds = zip(*(row.samples for row in own), strict=True)
            fitted = Spread.of([exponent(sizes, times) for times in rounds])
            found.append({'measure': mode, 'name': name, 'exponent': vars(fitted)})
    return found


def exponent(tokens: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of log time over log tokens by least squares."""
    xs, ys = (list(map(math.log, values)) for values in (tokens, seconds))
    return statistics.linear_regression(xs, ys).slope


def show(bench: Benchmark) -> None:
    """Print the tables."""
    args, rows = bench.args, {(row.measure, row.group, row.name): row for row in bench.rows}
    first = args.operators[0]
    for mode in args.modes:
        lines = []
        for row in (row for row in bench.rows if row.measure == mode):
            times, base = '-', rows.get((mode, row.group, first))
            if base and row.name != COPY:
                pairs = zip(base.samples, row.samples, strict=True)
                times = Spread.of([theirs / own for theirs, own in pairs])
            rate = f'{row.figures["bytes_per_second"] / 1e9:.4g}'
            name, share = f'{row.group} {row.name}', row.figures['share_of_copy']
            lines.append((name, row.seconds * 1e6, rate, share, times))
        header = (mode, 'microseconds', 'GB/s', "share of the copy's GB/s", f'times {first}')
        bench.table(f'Heat conduction, {mode}', header, lines)
    if bench.record['exponents']:
        lines = [
            (f'{one["measure"]} {one["name"]}', Spread(**one['exponent']))
            for one in bench.record['exponents']
        ]
        title = (
            f'Time grows as tokens to this power, squares of side {min(args.exponent_sizes)} to '
            f'{max(args.exponent_sizes)}, {args.exponent_channels} channels'
        )
        bench.table(title, ('', 'exponent'), lines)


def shape_name(shape: Sequence[int]) -> str:
    """``56x56x96``, as on the command line."""
    return 'x'.join(map(str, shape))
