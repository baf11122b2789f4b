"""Make scenes of photographic cut-outs: the stamps of Tux Paint, alone and composed."""

import argparse
import sys

from digits.making import making
from stamps import STAMPS, StampsSpec, prepare_stamps

from mmvheat.cli.arguments import OneLineParser
from mmvheat.cli.command import run_command

_COUNTS = ('seed', 'num_train_scenes', 'num_val_scenes', 'train_renders', 'val_renders')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    default = StampsSpec()
    parser = OneLineParser(description=__doc__)
    parser.add_argument(
        '--source', default=STAMPS, help=f'the folder "stamps" of Tux Paint ({STAMPS})'
    )
    parser.add_argument('--data-root', '--out', default='data/stamps', help='folder to make')
    for name in _COUNTS:
        option = f'--{name.replace("_", "-")}'
        parser.add_argument(option, type=int, default=getattr(default, name))
    parser.add_argument('--force', action='store_true', help='make the data even if they are there')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Make the data, or find them made."""
    args = parse_args(argv)
    spec = StampsSpec(**{name: getattr(args, name) for name in _COUNTS})
    with making(args.data_root, 'drawing stamps', 'images') as made:
        made.root = prepare_stamps(
            args.data_root, args.source, spec, args.force, progress=made.advance
        )


if __name__ == '__main__':
    sys.exit(run_command(main))
