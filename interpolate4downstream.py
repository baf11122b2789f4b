"""Fit a vHeat checkpoint to another image size and name its keys for OpenMMLab.

Usage: python interpolate4downstream.py --pt_pth IN --pt_size 224 --tg_pth OUT --tg_size 512
"""

import argparse
from collections.abc import Sequence

from mmvheat.cli.arguments import (
    MODES,
    TASKS,
    OneLineParser,
    add_key_and_force,
    add_size_argument,
    source_file,
)
from mmvheat.cli.command import run_main


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        description='Fit the frequency embeddings of a vHeat checkpoint to another image size '
        'and name its keys for mmdetection, mmsegmentation and mmpretrain.',
        allow_abbrev=False,
    )
    parser.add_argument(
        '--pt_pth', required=True, metavar='IN', help='checkpoint to convert, a file or a URL'
    )
    add_size_argument(parser, '--pt_size', 'image size it was trained at: N or H W')
    parser.add_argument('--tg_pth', required=True, metavar='OUT', help='file to write')
    add_size_argument(parser, '--tg_size', 'image size to fit it to: N or H W')
    parser.add_argument('--mode', choices=MODES, default='bicubic', help='how to resize (bicubic)')
    parser.add_argument(
        '--task',
        choices=TASKS,
        default='downstream',
        help='downstream drops a classifier and its norm, classification keeps them (downstream)',
    )
    add_key_and_force(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Convert and say what was done.

    Args:
        argv: Arguments; the process's own if None.
    """
    args = _parse_args(argv)
    from mmvheat.checkpoint import convert_file

    report = convert_file(
        source_file(args.pt_pth, args.tg_pth, args.force),
        args.tg_pth,
        args.pt_size,
        args.tg_size,
        mode=args.mode,
        key=args.key,
        task=args.task,
        force=args.force,
    )
    sizes = (' x '.join(map(str, size)) for size in (args.pt_size, args.tg_size))
    print(f'{args.pt_pth}: {" -> ".join(sizes)}, {args.mode}, {args.task}')
    print(report.table())
    print(f'wrote {args.tg_pth}')


if __name__ == '__main__':
    run_main(main)
