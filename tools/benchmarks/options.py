"""Options that all benchmarks share, and what can be wrong with them."""

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from results import figure

from mmvheat.command_line import OneLineParser
from mmvheat.errors import UserError

__all__ = ['DTYPES', 'add_options', 'autocast', 'check_options', 'positive', 'size']

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'{text} is not >= 1')
    return number


def add_options(parser: OneLineParser, repetitions: int) -> None:
    """Add what all benchmarks share."""
    parser.add_argument(
        '--device', default='auto', help='cpu, cuda, cuda:1, ...; auto takes a GPU if there is one'
    )
    parser.add_argument('--dtype', choices=list(DTYPES), default='float32')
    parser.add_argument('--threads', type=positive, metavar='N', help="threads of torch's CPU part")
    parser.add_argument(
        '--repetitions',
        type=positive,
        default=repetitions,
        metavar='N',
        help=f'rounds, each of one sample of every candidate ({repetitions})',
    )
    parser.add_argument(
        '--sample-ms',
        type=float,
        default=20.0,
        metavar='MS',
        help='a sample is of as many calls as last so many milliseconds (20)',
    )
    parser.add_argument(
        '--compile',
        nargs='?',
        const='inductor',
        metavar='BACKEND',
        help='time every candidate compiled too, by torch.compile with this backend (inductor)',
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all samples there')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='draw a picture (matplotlib)')


def check_options(args: argparse.Namespace) -> torch.device:
    """Check the shared options and set the threads.

    Returns:
        The device.

    Raises:
        UserError: If an option does not fit this machine.
    """
    if args.sample_ms < 0:
        raise UserError(f'--sample-ms is not negative, got {args.sample_ms}')
    if args.compile and args.compile not in torch.compiler.list_backends(exclude_tags=()):
        known = ', '.join(torch.compiler.list_backends(exclude_tags=()))
        raise UserError(f'torch.compile has no backend {args.compile!r}: it has {known}')
    if args.plot:
        figure(1)  # matplotlib that is missing should be missed now
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device == 'auto':
        args.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(args.device)
    except RuntimeError as error:
        raise UserError(f'--device is cpu or cuda[:N], got {args.device!r}') from error
    if device.type not in ('cpu', 'cuda'):
        raise UserError(f'--device is cpu or cuda[:N], got {args.device!r}')
    if device.type == 'cuda':
        if not torch.cuda.is_available():
            raise UserError('--device cuda, but torch finds no CUDA GPU: use --device cpu')
        if (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f'--device {device}, but there are {torch.cuda.device_count()} GPUs')
        device = torch.device('cuda', device.index or 0)
        torch.cuda.set_device(device)
    return device


def size(numbers: list[int]) -> tuple[int, int]:
    """Height and width from one or two numbers.

    Raises:
        UserError: If there are more.
    """
    if len(numbers) > 2:
        raise UserError(f'--size is one or two numbers, got {len(numbers)}')
    return numbers[0], numbers[-1]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Autocast to a low precision; float32 is computed as it is."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)
