"""The parsers of the command lines, and the arguments that several of them share."""

import argparse
import os
from pathlib import Path
from typing import Any, NoReturn

from .command import MISTAKE

__all__ = [
    'MODES',
    'TASKS',
    'CfgOptions',
    'OneLineParser',
    'RunParser',
    'add_key_and_force',
    'add_size_argument',
    'add_work_dir_and_options',
    'source_file',
]

# As in mmvheat.checkpoint and mmvheat.ops, which import torch; a test holds them equal.
MODES = ('bicubic', 'pad', 'frequency')
TASKS = ('downstream', 'classification')
MAX_SIDE = 4096


class OneLineParser(argparse.ArgumentParser):
    """Reports a mistake on the command line in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and exit."""
        self.exit(MISTAKE, f'error: {message} (--help lists the arguments)\n')


class RunParser(OneLineParser):
    """The parser of ``tools/train.py`` and ``tools/test.py``."""

    def add_common_arguments(self) -> None:
        """Add the options of OpenMMLab's tools that both share."""
        add_work_dir_and_options(self)
        self.add_argument(
            '--compile',
            nargs='?',
            const='inductor',
            metavar='BACKEND',
            help='compile the backbone with torch.compile (inductor); the first iterations take '
            'minutes, and so does a second image size',
        )
        self.add_argument(
            '--launcher',
            choices=['none', 'pytorch', 'slurm', 'mpi'],
            default='none',
            help='how the processes were started; dist_train.sh and dist_test.sh say pytorch',
        )
        self.add_argument(
            '--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:
        """Parse, and tell mmengine the local rank that an old launcher passed as an option."""
        parsed = super().parse_args(args, namespace)
        os.environ.setdefault('LOCAL_RANK', str(parsed.local_rank))
        return parsed


def add_work_dir_and_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--work-dir`` and ``--cfg-options``."""
    parser.add_argument(
        '--work-dir', help='folder for logs and checkpoints (./work_dirs/<config name>)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='override settings of the config; a list as key="[a,b]" or key=a,b, a nested one '
        'as key="[(a,b),(c,d)]", with the quotation marks and without white space',
    )


def add_size_argument(
    parser: argparse.ArgumentParser, name: str, help: str, required: bool = True
) -> None:
    """Add the option ``name``, which takes N or H W, in pixels, and gives (height, width)."""
    parser.add_argument(
        name, action=_SizeAction, type=_side, nargs='+', required=required, metavar='N', help=help
    )


def add_key_and_force(parser: argparse.ArgumentParser) -> None:
    """Add ``--key``, for what to read, and ``--force``, for what may be replaced."""
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
    from mmvheat.checkpoint.io.download import is_url, local_file
    from mmvheat.checkpoint.io.writing import check_target

    if is_url(source):
        check_target(target, force)
    return local_file(source)


class CfgOptions(argparse.Action):
    """mmengine's DictAction, with one clear line instead of a traceback."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        """Add the settings to those that the namespace has."""
        from mmengine.config import DictAction

        try:
            DictAction(self.option_strings, self.dest)(parser, namespace, values, option)
        except (ValueError, AssertionError):
            parser.error(f'--cfg-options takes KEY=VALUE pairs, got {" ".join(values)!r}')


class _SizeAction(argparse.Action):
    """Completes one side of a square to (height, width)."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        if len(values) > 2:
            raise argparse.ArgumentError(self, f'expected N or H W, got {len(values)} numbers')
        setattr(namespace, self.dest, (values[0], values[-1]))


def _side(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= MAX_SIDE):
        raise argparse.ArgumentTypeError(f'{text!r} is not a number of pixels in 1..{MAX_SIDE}')
    return int(text)
