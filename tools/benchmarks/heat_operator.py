"""Time the heat conduction operator alone, against a plain copy of the map on the same device.

A copy reads and writes each byte once, which is the least that any operator can do: the share of
its bytes per second tells how near to that an operator comes. The exponent tells how its time grows
with the number of tokens (1.5 for cosine transforms as matrix products, vHeat Sec. 3.3).
"""

import argparse
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import torch
from agreement import require_agreement, worst_error
from harness import DTYPES, Benchmark, make_parser, positive, release, run
from timing import Spread, Timed
from torch import Tensor

from mmvheat.errors import UserError
from mmvheat.ops import dct_basis, heat_conduction, heat_decay, kernels_available, use_kernels
from mmvheat.ops.heat import conduct_by_matrix, conduct_by_rows
from mmvheat.ops.reference import heat_conduction_reference

Operator = Callable[[Tensor, Tensor], Tensor]

COPY = 'copy'
MODES = ('forward', 'forward+backward')
# Those of the stages of vHeat-T at 224, a detection map, and where the paper's Figure 1 ends.
MAPS = ['7x7x768', '14x14x384', '28x28x192', '56x56x96', '100x168x192', '200x334x96', '256x256x96']
EXPONENT_SIZES = [56, 72, 96, 112, 144, 192, 256]
SMALL = (2, 6, 9, 4)

# Relative to the largest value; gradients of k are sums over the batch and rounded more often.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}


def by(conduct: Operator) -> Operator:
    """The operator with one way of conduction, whichever it would choose by itself."""

    def operator(x: Tensor, k: Tensor) -> Tensor:
        return conduct(x, heat_decay(k).to(x.dtype))

    return operator


def fused_conduction(x: Tensor, k: Tensor) -> Tensor:
    """Conduction by the fused kernels, where they are available and fit."""
    with use_kernels():
        return heat_conduction(x, k)


def einsum_conduction(x: Tensor, k: Tensor) -> Tensor:
    """Conduction as anybody would write it: orthonormal matrices in the dtype of the map."""
    rows = dct_basis(x.size(1), x.dtype, x.device)
    columns = dct_basis(x.size(2), x.dtype, x.device)
    # One axis after the other: an einsum of all three would first make the matrix of both axes.
    x = torch.einsum('mj,bnjc->bnmc', columns, torch.einsum('ni,bijc->bnjc', rows, x))
    x = x * heat_decay(k).to(x.dtype)
    return torch.einsum('mj,bimc->bijc', columns, torch.einsum('ni,bnmc->bimc', rows, x))


# Map (B, H, W, C) and diffusivity (H, W, C) to map; the first one is what the backbone runs.
OPERATORS: dict[str, Operator] = {
    'mmvheat': heat_conduction,
    'matrix': by(conduct_by_matrix),
    'rows': by(conduct_by_rows),
    'fused': fused_conduction,
    'einsum': einsum_conduction,
}


def map_shape(text: str) -> tuple[int, int, int]:
    """Height, width and channels from ``56x56x96``, for argparse."""
    numbers = tuple(map(int, text.split('x')))
    if len(numbers) != 3 or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f'a map is HxWxC, like 56x56x96, got {text}')
    return numbers


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, repetitions=15, plural='maps')
    add = parser.add_argument
    default, text = list(map(map_shape, MAPS)), f'maps to time it on ({" ".join(MAPS)})'
    add('--maps', nargs='+', type=map_shape, default=default, metavar='HxWxC', help=text)
    text = f'of {", ".join(OPERATORS)} (all that run here)'
    add('--operators', nargs='+', choices=list(OPERATORS), metavar='NAME', help=text)
    add('--modes', nargs='+', choices=MODES, default=list(MODES))
    sizes = ' '.join(map(str, EXPONENT_SIZES))
    text = f'sides of square maps to fit the exponent to; none leaves it out ({sizes})'
    default = EXPONENT_SIZES
    add('--exponent-sizes', nargs='*', type=positive, default=default, metavar='N', help=text)
    add('--exponent-channels', type=positive, default=96, metavar='N', help='their channels (96)')
    args = parser.parse_args(argv)
    if args.operators is None:
        # Elsewhere 'fused' is 'matrix' again.
        fused = kernels_available(args.device) and args.dtype != 'float32'
        args.operators = [name for name in OPERATORS if fused or name != 'fused']
    if len(set(args.exponent_sizes)) == 1:
        raise UserError('--exponent-sizes needs two sizes for a slope, or none')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Check, time and report."""
    args = parse_args(argv)
    operators = {name: OPERATORS[name] for name in args.operators}
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
    in_place = () if mode == 'forward' else ('rows',)
    return {name: operator for name, operator in operators.items() if name not in in_place}


def check_small(bench: Benchmark, operators: Mapping[str, Operator]) -> None:
    """Compare every operator with the reference, on a map small enough for that."""
    device, dtype = bench.args.device, DTYPES[bench.args.dtype]
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
    args, dtype, group = bench.args, DTYPES[bench.args.dtype], shape_name(shape)
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
    """The inverse of :func:`map_shape`."""
    return 'x'.join(map(str, shape))


if __name__ == '__main__':
    run(main)
