"""Look at a checkpoint, or give it another form.

Usage: python -m mmvheat.checkpoint inspect FILE
       python -m mmvheat.checkpoint convert IN OUT --to published|mmpretrain|backbone|downstream
"""

import argparse
from collections.abc import Sequence

from .arguments import MODES, OneLineParser, add_key_and_force, add_size_argument, source_file

# What --to takes, and what it is called in Python.
_FORMS = {
    'published': 'published',
    'mmpretrain': 'classification',
    'backbone': 'backbone',
    'downstream': 'downstream',
}


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        prog='python -m mmvheat.checkpoint',
        description='Look at a checkpoint of vHeat, or give it another form.',
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    inspect = commands.add_parser(
        'inspect',
        help='say what a file is and which configs it fits',
        description='Say what a checkpoint is and which configs it fits, from names and shapes.',
        allow_abbrev=False,
    )
    inspect.add_argument('file', metavar='FILE', help='checkpoint, a file or a URL')
    inspect.add_argument('--key', help='entry to look at, for example model_ema')
    inspect.add_argument('--json', action='store_true', help='print JSON')
    convert = commands.add_parser(
        'convert',
        help='give a file another form',
        description='Rename the keys of a checkpoint, and fit its embeddings to another size.',
        allow_abbrev=False,
    )
    convert.add_argument('source', metavar='IN', help='checkpoint to convert, a file or a URL')
    convert.add_argument('target', metavar='OUT', help='file to write, .safetensors if it ends so')
    convert.add_argument(
        '--to',
        required=True,
        choices=_FORMS,
        help="published or mmpretrain: a classifier with that code's names; backbone: the backbone "
        'alone, with the names of mmvheat.models.VHeat; downstream: for detectors and segmentors, '
        'as interpolate4downstream.py makes it',
    )
    add_size_argument(convert, '--size', 'image size to fit it to: N or H W', required=False)
    add_size_argument(
        convert,
        '--pt_size',
        'image size it was trained at, to be checked: N or H W',
        required=False,
    )
    convert.add_argument('--mode', choices=MODES, default='bicubic', help='how to resize (bicubic)')
    add_key_and_force(convert)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: Arguments; the process's own if None.
    """
    args = _parse_args(argv)
    if args.command == 'convert':
        _convert(args)
        return
    from .inspection import inspect

    inspect(args.file, args.key, args.json)


def _convert(args: argparse.Namespace) -> None:
    from mmvheat.checkpoint import change_file

    report = change_file(
        source_file(args.source, args.target, args.force),
        args.target,
        _FORMS[args.to],
        args.size,
        args.pt_size,
        mode=args.mode,
        key=args.key,
        force=args.force,
    )
    fitted = f', fitted to {args.size[0]} x {args.size[1]} by {args.mode}' if args.size else ''
    print(f'{args.source}: {args.to}{fitted}')
    print(report.table())
    print(f'wrote {args.target}')
