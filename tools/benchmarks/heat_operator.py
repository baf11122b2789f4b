"""Time the heat conduction operator alone, against a plain copy of the map on the same device.

A copy reads and writes each byte once, which is the least that any operator can do: the share of
its bytes per second tells how near to that an operator comes. The exponent tells how its time grows
with the number of tokens (1.5 for cosine transforms as matrix products, vHeat Sec. 3.3).
"""

import argparse
import sys
from collections.abc import Sequence

from options import make_parser, positive

from mmvheat.cli.command import run_command
from mmvheat.errors import UserError

# The functions of conduction.py; the first one is what the backbone runs.
OPERATORS = ('mmvheat', 'matrix', 'rows', 'images', 'fused', 'einsum')
MODES = ('forward', 'forward+backward')
# Those of the stages of vHeat-T at 224, a detection map, and where the paper's Figure 1 ends.
MAPS = ['7x7x768', '14x14x384', '28x28x192', '56x56x96', '100x168x192', '200x334x96', '256x256x96']
EXPONENT_SIZES = [56, 72, 96, 112, 144, 192, 256]


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
    add('--operators', nargs='+', choices=OPERATORS, metavar='NAME', help=text)
    add('--modes', nargs='+', choices=MODES, default=list(MODES))
    sizes = ' '.join(map(str, EXPONENT_SIZES))
    text = f'sides of square maps to fit the exponent to; none leaves it out ({sizes})'
    default = EXPONENT_SIZES
    add('--exponent-sizes', nargs='*', type=positive, default=default, metavar='N', help=text)
    add('--exponent-channels', type=positive, default=96, metavar='N', help='their channels (96)')
    args = parser.parse_args(argv)
    if args.operators is None:
        from mmvheat.ops import kernels_available

        # Elsewhere 'fused' is 'matrix' again.
        fused = kernels_available(args.device) and args.dtype != 'float32'
        args.operators = [name for name in OPERATORS if fused or name != 'fused']
    if len(set(args.exponent_sizes)) == 1:
        raise UserError('--exponent-sizes needs two sizes for a slope, or none')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Check, time and report."""
    args = parse_args(argv)
    from time_heat_operator import benchmark

    benchmark(args)


if __name__ == '__main__':
    sys.exit(run_command(main))
