"""Make the embedded demo data: handwritten digits, alone and composed into scenes."""

import argparse
import sys

from digits import DigitsSpec, prepare_digits
from digits.making import making

from mmvheat.cli.arguments import OneLineParser
from mmvheat.cli.command import run_command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    default = DigitsSpec()
    parser = OneLineParser(description=__doc__)
    parser.add_argument('--data-root', default='data/digits', help='folder to make')
    parser.add_argument('--seed', type=int, default=default.seed)
    parser.add_argument('--num-train-scenes', type=int, default=default.num_train_scenes)
    parser.add_argument('--num-val-scenes', type=int, default=default.num_val_scenes)
    parser.add_argument('--num-train-digits', type=int, default=default.num_train_digits)
    parser.add_argument('--num-val-digits', type=int, default=default.num_val_digits)
    parser.add_argument('--train-renders', type=int, default=default.train_renders)
    parser.add_argument('--val-renders', type=int, default=default.val_renders)
    parser.add_argument('--force', action='store_true', help='make the data even if they are there')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Make the data, or find them made."""
    args = vars(parse_args(argv))
    data_root = args.pop('data_root')
    with making(data_root, 'drawing digits', 'images') as made:
        made.root = prepare_digits(data_root, **args, progress=made.advance)


if __name__ == '__main__':
    sys.exit(run_command(main))
