"""The paper's Figure 1: throughput, peak memory and FLOPs of vHeat and Swin over the resolution.

Swin's windows grow with the image (resolution / 32), as in the paper. What does not fit into memory
is reported as such, and the others run on.
"""

import argparse
import sys
from collections.abc import Sequence

from options import OURS, SCALES, STRIDE, make_parser, positive

from mmvheat.cli.command import run_command
from mmvheat.errors import UserError

RESOLUTIONS = [224, 384, 512, 768, 1024, 1280, 1536, 2048]
MODELS = (OURS, 'swin')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, repetitions=7, plural='images')
    add = parser.add_argument
    text = f'sides of the images, multiples of {STRIDE} ({" ".join(map(str, RESOLUTIONS))})'
    add('--resolutions', nargs='+', type=positive, default=RESOLUTIONS, metavar='N', help=text)
    text = f'of {", ".join(MODELS)} (both); ratios are to the first'
    add('--models', nargs='+', choices=MODELS, default=MODELS, metavar='NAME', help=text)
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
    from time_resolution import benchmark

    benchmark(args)


if __name__ == '__main__':
    sys.exit(run_command(main))
