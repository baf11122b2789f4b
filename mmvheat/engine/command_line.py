"""Arguments that training and testing share."""

import argparse
import os
from typing import Any

from mmengine.config import DictAction

from mmvheat.command_line import OneLineParser

__all__ = ['ArgumentParser']


class _CfgOptions(DictAction):
    """mmengine's DictAction, with one clear line instead of a traceback."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        try:
            super().__call__(parser, namespace, values, option)
        except (ValueError, AssertionError):
            parser.error(f'--cfg-options takes KEY=VALUE pairs, got {" ".join(values)!r}')


class ArgumentParser(OneLineParser):
    """A parser with the arguments of both tools.

    Args:
        description: First line of the help.
    """

    def __init__(self, description: str) -> None:
        super().__init__(description=description)

    def add_common_arguments(self) -> None:
        """Add the options of OpenMMLab's tools that training and testing share."""
        self.add_argument(
            '--work-dir', help='folder for logs and checkpoints (./work_dirs/<config name>)'
        )
        self.add_argument(
            '--cfg-options',
            nargs='+',
            action=_CfgOptions,
            metavar='KEY=VALUE',
            help='override settings of the config; a list as key="[a,b]" or key=a,b, a nested one '
            'as key="[(a,b),(c,d)]", with the quotation marks and without white space',
        )
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
