"""Time vHeat against the published code, Swin and ConvNeXt: inference and training steps.

Before a model is timed its result is compared (``agreement.py``); nothing is reported of one that
disagrees.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from options import FAMILIES, OURS, PHASES, RUNTIMES, SCALES, make_parser, positive, seconds

from mmvheat.cli.command import run_command
from mmvheat.errors import UserError

MODELS = [f'{family}-{scale}' for scale in SCALES for family in FAMILIES]
SIZES = {'classifier': [224, 224], 'detection': [800, 1333]}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, repetitions=10, plural='images')
    add = parser.add_argument
    text = f'of {", ".join(MODELS)}; ratios are within a size (all but micro)'
    add('--models', nargs='+', choices=MODELS, metavar='NAME', help=text)
    text = 'a clone of the published repository, to time its code with the weights of ours'
    add('--published', type=Path, metavar='PATH', help=text)
    text = 'what is timed: images to logits, or images to the maps of all stages'
    add('--path', choices=list(SIZES), default='classifier', help=text)
    text = 'height and width of the images, or one number for both (224; detection 800 1333)'
    add('--size', nargs='+', type=positive, metavar='N', help=text)
    text = 'inference of a batch, inference of one image, training steps'
    add('--phases', nargs='+', choices=list(PHASES), default=list(PHASES), help=text)
    text = 'the model that ratios are to: published if it is timed, else vheat'
    add('--baseline', metavar='NAME', help=text)
    text = "all models and images in torch's layout NHWC"
    add('--channels-last', action='store_true', help=text)
    text = 'time every model exported too, in inference on a CPU, by each of these'
    add('--runtime', nargs='+', choices=list(RUNTIMES), default=[], metavar='NAME', help=text)
    text = 'time vHeat with packed weights too, in inference on a CPU'
    add('--pack', action='store_true', help=text)
    text = 'compile no further model of a size when preparing them has taken so long'
    add('--compile-limit', type=seconds, metavar='SECONDS', help=text)
    args = parser.parse_args(argv)
    args.size = args.size or SIZES[args.path]
    if len(args.size) > 2:
        raise UserError(f'--size is one or two numbers, got {len(args.size)}')
    args.size = [args.size[0], args.size[-1]]
    check_runtimes(args)
    if args.models is None:
        from models import timm_is_there

        args.models = [name for name in MODELS if not name.endswith('-micro')]
        if not timm_is_there():
            args.models = [name for name in args.models if name.startswith(OURS)]
            sys.stderr.write('timm is not installed: Swin and ConvNeXt are left out\n')
    return args


def check_runtimes(args: argparse.Namespace) -> None:
    """Refuse exported forms that cannot be timed as asked.

    Raises:
        UserError: If the device or the precision is not theirs.
    """
    args.runtime = list(dict.fromkeys(args.runtime))
    if args.pack and args.device.type != 'cpu':
        raise UserError(f'--pack times on a CPU, got --device {args.device}')
    for runtime in args.runtime:
        if args.device.type != 'cpu':
            raise UserError(f'--runtime times on a CPU, got --device {args.device}')
        if args.dtype not in RUNTIMES[runtime]:
            known = ' and '.join(RUNTIMES[runtime])
            raise UserError(f'--runtime {runtime} is timed in {known}, got --dtype {args.dtype}')


def main(argv: Sequence[str] | None = None) -> None:
    """Check, time and report."""
    args = parse_args(argv)
    from time_backbone import benchmark

    benchmark(args)


if __name__ == '__main__':
    sys.exit(run_command(main))
