"""Time the heat conduction operator alone, against a plain copy of the map on the same device.

A copy reads and writes each byte once, which is the least that any operator can do: the share of
its bytes a second tells how near to that an operator comes. The exponent says how its time grows
with the number of tokens (1.5 for cosine transforms as matrix products, vHeat Sec. 3.3).
"""

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence

import torch
from agreement import Agreement, require_agreement, worst_error
from countdown import Countdown
from failures import noting_failure
from memory import release
from operators import OPERATORS, Operator, default_operators
from options import DTYPES, add_options, check_options, positive
from results import Results, Timed, figure, format_spread, save_figure, table
from stopping import until_stopped
from timing import Spread, measure, spread
from torch import Tensor

from mmvheat.command_line import OneLineParser, run_command
from mmvheat.errors import UserError
from mmvheat.ops import heat_conduction
from mmvheat.ops.reference import heat_conduction_reference

COPY = 'copy'
MODES = ('forward', 'forward+backward')
# Those of the stages of vHeat-T at 224, a detection map, and where the paper's Figure 1 ends.
MAPS = ['7x7x768', '14x14x384', '28x28x192', '56x56x96', '100x168x192', '200x334x96', '256x256x96']
EXPONENT_SIZES = [56, 72, 96, 112, 144, 192, 256]
SMALL = (2, 6, 9, 4)

# Relative to the largest value; gradients of k are sums over the batch and rounded more often.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}


def map_shape(text: str) -> tuple[int, int, int]:
    """Height, width and channels from ``56x56x96``, for argparse."""
    numbers = tuple(map(int, text.split('x')))
    if len(numbers) != 3 or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f'a map is HxWxC, like 56x56x96, got {text}')
    return numbers


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = OneLineParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        '--maps',
        nargs='+',
        type=map_shape,
        default=[map_shape(one) for one in MAPS],
        metavar='HxWxC',
        help=f'maps to time it on ({" ".join(MAPS)})',
    )
    parser.add_argument('--batch', type=positive, default=8, metavar='N', help='maps at once (8)')
    parser.add_argument(
        '--operators', nargs='+', metavar='NAME', help='of operators.py (all that run here)'
    )
    parser.add_argument('--modes', nargs='+', choices=MODES, default=list(MODES))
    parser.add_argument(
        '--exponent-sizes',
        nargs='*',
        type=positive,
        default=EXPONENT_SIZES,
        metavar='N',
        help='square maps to fit the exponent to; none leaves it out '
        f'({" ".join(map(str, EXPONENT_SIZES))})',
    )
    parser.add_argument(
        '--exponent-channels', type=positive, default=96, metavar='N', help='their channels (96)'
    )
    add_options(parser, repetitions=15)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Check, time and report."""
    args = parse_args(argv)
    device = check_options(args)
    if args.operators is None:
        args.operators = default_operators(device, DTYPES[args.dtype])
    unknown = [name for name in args.operators if name not in OPERATORS]
    if unknown:
        raise UserError(f'unknown operator {unknown[0]!r}: use {", ".join(OPERATORS)}')
    if len(args.exponent_sizes) == 1:
        raise UserError('--exponent-sizes needs two sizes for a slope, or none')
    operators = {name: OPERATORS[name] for name in args.operators}
    results = Results('heat_operator', vars(args), device, args.json)
    squares = [(side, side, args.exponent_channels) for side in args.exponent_sizes]
    names = 1 + len(operators) * (2 if args.compile else 1)
    total = (len(args.maps) + len(squares)) * len(args.modes) * names * args.repetitions
    results.add(agreements=check_small(operators, device, DTYPES[args.dtype]))
    rows: list[Timed] = []
    failures: list[dict] = []
    with until_stopped(), Countdown(total) as countdown:
        for shape in dict.fromkeys((*args.maps, *squares)):
            timed, agreements, failed = time_map(operators, shape, args, device, countdown)
            rows += timed
            failures += failed
            results.add(agreements, timed, failures=failures)
        results.finish()
    exponents = []
    for mode in args.modes if squares else ():
        exponents += fit_exponents(rows, mode, squares)
    results.add(exponents=exponents)
    show(rows, exponents, args, results.record['environment'])
    if args.plot:
        draw(rows, exponents, args)


def check_small(
    operators: Mapping[str, Operator], device: torch.device, dtype: torch.dtype
) -> list[Agreement]:
    """Compare every operator with the reference, on a map small enough for that."""
    x, k, _ = make_inputs(SMALL[1:], SMALL[0], device, torch.float32)
    agreements = []
    for name, operator in operators.items():
        for precision in dict.fromkeys((torch.float32, dtype)):
            error = worst_error(
                operator(x.to(precision), k), heat_conduction_reference(x.to(precision), k)
            )
            agreements.append(
                require_agreement(
                    f'operator {name} in {_name(precision)} at {_shape(SMALL[1:])}',
                    'mmvheat.ops.reference',
                    error,
                    TOLERANCES[precision],
                )
            )
    return agreements


def time_map(
    operators: Mapping[str, Operator],
    shape: tuple[int, int, int],
    args: argparse.Namespace,
    device: torch.device,
    countdown: Countdown,
) -> tuple[list[Timed], list[Agreement], list[dict]]:
    """Check and time all operators on one map, in all modes.

    Returns:
        The samples, what was compared, and what could not run.
    """
    dtype = DTYPES[args.dtype]
    x, k, seed = make_inputs(shape, args.batch, device, dtype)
    if args.compile:
        # All maps compile the same function, and dynamo gives up after a few recompilations.
        torch.compiler.reset()
        operators = operators | {
            f'{name} compiled': torch.compile(operator, dynamic=False, backend=args.compile)
            for name, operator in operators.items()
        }
    rows, agreements, failed = [], [], []
    for mode in args.modes:
        failures: dict[str, str] = {}
        calls: dict[str, Callable[[], object]] = {COPY: x.clone}
        # One map is enough to compare, and all that float64 may have room for.
        parts = ('map', 'dx', 'dk') if mode != 'forward' else ('map',)
        truth = run(heat_conduction, mode, x[:1].double(), k.double(), seed[:1].double())
        for name, operator in operators.items():
            with noting_failure(failures, name):
                got = run(operator, mode, x[:1], k, seed[:1])
                for part, result, reference in zip(parts, got, truth, strict=True):
                    agreements.append(
                        require_agreement(
                            f'operator {name} ({part}) in {args.dtype} at {_shape(shape)}',
                            'float64',
                            worst_error(result, reference),
                            TOLERANCES[dtype],
                        )
                    )
                calls[name] = call_of(operator, mode, x, k, seed)
                calls[name]()
        for name, why in failures.items():
            calls.pop(name, None)
            failed.append({'measure': mode, 'group': _shape(shape), 'name': name, 'why': why})
            countdown.tick(name, args.repetitions)
            sys.stderr.write(f'{name}, {mode} at {_shape(shape)}: {why}\n')
        samples = measure(
            calls, device, args.repetitions, args.sample_ms / 1e3, tick=countdown.tick
        )
        timed = Timed.all_of(mode, _shape(shape), samples, COPY)
        for row in timed:
            add_bandwidth(row, moved_bytes(x, k, mode), moved_bytes(x, k, COPY))
        rows += timed
    del calls
    release(device)
    return rows, agreements, failed


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


def call_of(operator: Operator, mode: str, x: Tensor, k: Tensor, seed: Tensor):
    """The call that is timed."""
    if mode == 'forward':

        def call() -> Tensor:
            with torch.no_grad():
                return operator(x, k)

    else:
        x, k = x.detach().requires_grad_(), k.detach().requires_grad_()

        def call() -> tuple[Tensor, Tensor]:
            return torch.autograd.grad(operator(x, k), (x, k), seed)

    return call


def run(operator: Operator, mode: str, x: Tensor, k: Tensor, seed: Tensor) -> list[Tensor]:
    """Map and, with a backward pass, the gradients of map and diffusivity."""
    if mode == 'forward':
        return [call_of(operator, mode, x, k, seed)()]
    x, k = x.detach().requires_grad_(), k.detach().requires_grad_()
    warm = operator(x, k)
    return [warm.detach(), *torch.autograd.grad(warm, (x, k), seed)]


def moved_bytes(x: Tensor, k: Tensor, mode: str) -> int:
    """Bytes moved if each input is read once and each output written once.

    Backward reads the gradient, the map and the diffusivity, and writes the gradients of both.
    """
    maps, diffusivities = {COPY: (2, 0), 'forward': (2, 1), 'forward+backward': (5, 3)}[mode]
    return maps * x.nbytes + diffusivities * k.nbytes


def add_bandwidth(row: Timed, operator_bytes: int, copy_bytes: int) -> None:
    """Turn a ratio of times into a ratio of bytes a second."""
    moved = copy_bytes if row.name == COPY else operator_bytes
    share = moved / copy_bytes
    row.figures = {
        'bytes': moved,
        'bytes_per_second': moved / row.seconds.median,
        'share_of_copy': Spread(
            row.ratio.median * share, row.ratio.low * share, row.ratio.high * share
        ),
    }


def fit_exponents(rows: list[Timed], mode: str, squares: Sequence[Sequence[int]]) -> list[dict]:
    """Fit the exponent of every operator, round by round."""
    groups = {_shape(shape): shape[0] * shape[1] for shape in squares}
    found = []
    for name in dict.fromkeys(row.name for row in rows):
        own = [r for r in rows if r.name == name and r.measure == mode and r.group in groups]
        if len(own) < len(groups):
            continue  # it failed at one of the sizes
        tokens = [groups[row.group] for row in own]
        each = [
            exponent(tokens, times) for times in zip(*(row.samples for row in own), strict=True)
        ]
        found.append({'measure': mode, 'name': name, 'exponent': vars(spread(each))})
    return found


def exponent(tokens: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of log time over log tokens by least squares."""
    xs, ys = [[math.log(value) for value in values] for values in (tokens, seconds)]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    products = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return products / sum((x - mean_x) ** 2 for x in xs)


def show(rows: list[Timed], exponents: list[dict], args: argparse.Namespace, machine: dict) -> None:
    """Print the tables."""
    print(f'{machine["device"]}, torch {machine["torch"]}, {args.dtype}, batch {args.batch}')
    first = args.operators[0]
    for mode in args.modes:
        cells = []
        for row in rows:
            if row.measure != mode:
                continue
            beside = next(
                (r for r in rows if (r.measure, r.group, r.name) == (mode, row.group, first)), None
            )
            times = '-'
            if beside and row.name != COPY:
                pairs = zip(beside.samples, row.samples, strict=True)
                times = format_spread(spread([base / own for base, own in pairs]))
            cells.append(
                (
                    f'{row.group} {row.name}',
                    format_spread(row.seconds, 1e6),
                    f'{row.figures["bytes_per_second"] / 1e9:.4g}',
                    format_spread(row.figures['share_of_copy']),
                    times,
                )
            )
        header = (mode, 'microseconds', 'GB/s', "share of the copy's GB/s", f'times {first}')
        table(f'Heat conduction, {mode} (median [quartiles])', header, cells)
    if exponents:
        sides = f'{min(args.exponent_sizes)} to {max(args.exponent_sizes)}'
        cells = [
            (f'{one["measure"]} {one["name"]}', format_spread(Spread(**one['exponent'])))
            for one in exponents
        ]
        table(
            f'Time grows as tokens to this power, squares of side {sides}, '
            f'{args.exponent_channels} channels',
            ('', 'exponent'),
            cells,
        )


def draw(rows: list[Timed], exponents: list[dict], args: argparse.Namespace) -> None:
    """Draw time and share of the copy over tokens."""
    fitted = {(one['measure'], one['name']): one['exponent']['median'] for one in exponents}
    drawn, axes = figure(2 * len(args.modes))
    for mode, (times, shares) in zip(
        args.modes, zip(axes[::2], axes[1::2], strict=True), strict=True
    ):
        own = [row for row in rows if row.measure == mode]
        for name in dict.fromkeys(row.name for row in own):
            label = name
            if (mode, name) in fitted:
                label += f' (power {fitted[mode, name]:.2f})'
            points = sorted(
                (_elements(row.group), row.seconds.median, row.figures['share_of_copy'].median)
                for row in own
                if row.name == name
            )
            elements, seconds, share = zip(*points, strict=True)
            times.plot(elements, seconds, 'o-', label=label)
            shares.plot(elements, share, 'o-', label=name)
        times.set(xscale='log', yscale='log', title=mode, ylabel='seconds')
        shares.set(xscale='log', title=mode, ylabel="share of the copy's bytes/s", ylim=0)
        for axis in (times, shares):
            axis.set_xlabel('elements of a map (H W C)')
            axis.grid(alpha=0.3)
        times.legend()
    save_figure(drawn, args.plot)


def _elements(group: str) -> int:
    return math.prod(map(int, group.split('x')))


def _shape(shape: Sequence[int]) -> str:
    return 'x'.join(map(str, shape))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')


if __name__ == '__main__':
    sys.exit(run_command(main))
