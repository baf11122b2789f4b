"""Fold a vHeat checkpoint for inference at one image size.

Usage: python tools/fold_for_inference.py IN OUT --size 224
"""

import argparse
from collections.abc import Sequence

from mmvheat.cli.arguments import OneLineParser, add_key_and_force, add_size_argument, source_file
from mmvheat.cli.command import run_main


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        description='Compute the decays of a vHeat checkpoint for one image size, in the place of '
        'the weights they follow from. The result serves inference at that size alone, in a '
        'backbone with img_size=SIZE and inference_form=True; keep the source for all else.',
        allow_abbrev=False,
    )
    parser.add_argument('source', metavar='IN', help='checkpoint to fold, a file or a URL')
    parser.add_argument('target', metavar='OUT', help='file to write')
    add_size_argument(parser, '--size', 'size of the images: N or H W')
    add_key_and_force(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Fold and say what was written.

    Args:
        argv: Arguments; the process's own if None.
    """
    args = _parse_args(argv)
    from mmvheat.checkpoint import fold_file
    from mmvheat.checkpoint.names import FOLDED_DECAY, find

    source = source_file(args.source, args.target, args.force)
    tensors = fold_file(source, args.target, args.size, args.key, args.force)
    count = sum(find(FOLDED_DECAY, name) is not None for name in tensors)
    millions = sum(tensor.numel() for tensor in tensors.values()) / 1e6
    height, width = args.size
    print(f'folded {count} operators for {height} x {width}; {millions:.3f} M parameters now')
    print(f'wrote {args.target}')
    print(
        'use it with --cfg-options model.backbone.inference_form=True '
        f'"model.backbone.img_size=({height},{width})"'
    )


if __name__ == '__main__':
    run_main(main)
