"""What the command lines share that make one checkpoint from another."""

import argparse
from pathlib import Path
from typing import Any

from mmvheat.checkpoint import MAX_SIDE
from mmvheat.checkpoint.download import is_url, local_file
from mmvheat.checkpoint.writing import check_target

__all__ = ['add_key_and_force', 'add_size_argument', 'source_file']


class _SizeAction(argparse.Action):
    """Completes one side of a square to (height, width)."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if len(values) > 2:
            raise argparse.ArgumentError(self, f'expected N or H W, got {len(values)} numbers')
        setattr(namespace, self.dest, (values[0], values[-1]))


def _side(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= MAX_SIDE):
        raise argparse.ArgumentTypeError(f'{text!r} is not a number of pixels in 1..{MAX_SIDE}')
    return int(text)


def add_size_argument(
    parser: argparse.ArgumentParser, name: str, help: str, required: bool = True
) -> None:
    """Add an option that takes N or H W, in pixels, and gives (height, width).

    Args:
        parser: The parser.
        name: The option, with its dashes.
        help: What it is for.
        required: Whether it must be given.
    """
    parser.add_argument(
        name, action=_SizeAction, type=_side, nargs='+', required=required, metavar='N', help=help
    )


def add_key_and_force(parser: argparse.ArgumentParser) -> None:
    """Add ``--key``, for what to read, and ``--force``, for what may be replaced.

    Args:
        parser: The parser.
    """
    parser.add_argument(
        '--key',
        help='entry that holds the weights, for example model_ema (the first there is of model, '
        'state_dict, model_ema, ema_state_dict)',
    )
    parser.add_argument('--force', action='store_true', help='replace OUT if it exists')


def source_file(source: str, target: str, force: bool) -> Path:
    """Find the checkpoint to read; one that has an address is downloaded.

    Args:
        source: Its path or address.
        target: The file to write, looked at before anything is downloaded.
        force: Whether that may be replaced.

    Returns:
        The path of the checkpoint.

    Raises:
        UserError: If it cannot be downloaded, or the target could not be written then.
    """
    if is_url(source):
        check_target(target, force)
    return local_file(source)
