"""What the benchmarks' command lines share: options, and names that they offer; without torch."""

import argparse
import math
import re
from pathlib import Path

from mmvheat.cli.arguments import OneLineParser

OURS, PUBLISHED = 'vheat', 'published'
# As in the tables of models.py, which imports torch; a test holds them equal.
FAMILIES = (OURS, 'swin', 'convnext')
SCALES = ('micro', 'tiny', 'small', 'base')
# Exported forms that are timed, by what runs them, with the precisions each can be timed in.
RUNTIMES = {'onnxruntime': ('float32',), 'openvino': ('float32', 'bfloat16')}
# Of the last map of all models.
STRIDE = 32
# What is timed of a model, with the titles of the tables.
PHASES = {
    'throughput': 'Inference, batch {}',
    'latency': 'Inference, one image',
    'training': 'Training step (AdamW), batch {}',
}


def make_parser(description: str, repetitions: int, plural: str) -> OneLineParser:
    """Make a parser with the options that all benchmarks share.

    Args:
        description: Docstring of the benchmark; its first line is shown.
        repetitions: Default number of rounds.
        plural: What ``--batch`` counts.
    """
    parser = OneLineParser(description=description.partition('\n')[0])
    add = parser.add_argument
    add('--batch', type=positive, default=8, metavar='N', help=f'{plural} at once (8)')
    # A default that is text goes through the type, but after --help has left.
    add('--device', type=_device, default='auto', help='cpu, cuda, cuda:1; auto: a GPU, else cpu')
    add('--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32')
    add('--threads', type=positive, metavar='N', help="threads of torch's CPU part")
    text = f'rounds, each of one sample of every candidate ({repetitions})'
    add('--repetitions', type=positive, default=repetitions, metavar='N', help=text)
    text = 'a sample is the mean of as many calls as take so many milliseconds (20)'
    add('--sample-ms', type=seconds, default=20.0, metavar='MS', help=text)
    text = 'time every candidate compiled too, by torch.compile with this backend (inductor)'
    add('--compile', type=_backend, nargs='?', const='inductor', metavar='BACKEND', help=text)
    add('--json', type=Path, metavar='FILE', help='write all samples there')
    add('--plot', type=_picture, metavar='FILE', help='draw a picture (matplotlib)')
    return parser


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'{text} is not >= 1')
    return number


def seconds(text: str) -> float:
    """A duration, for argparse."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f'{text} is not >= 0')
    return number


def _device(text: str):
    """A device of torch, for argparse."""
    import torch

    if text == 'auto':
        text = 'cuda' if torch.cuda.is_available() else 'cpu'
    if not re.fullmatch(r'cpu|cuda(:\d+)?', text):
        raise argparse.ArgumentTypeError(f'cpu or cuda[:N], got {text!r}')
    device, count = torch.device(text), torch.cuda.device_count()
    if device.type == 'cuda':
        if (device.index or 0) >= count:
            message = f'{text}, but torch finds {count} CUDA GPUs: use --device cpu'
            raise argparse.ArgumentTypeError(message)
        torch.cuda.set_device(device.index or 0)
    return device


def _backend(text: str) -> str:
    import torch

    known = torch.compiler.list_backends(exclude_tags=())
    if text not in known:
        message = f'torch.compile has no backend {text!r}: it has {", ".join(known)}'
        raise argparse.ArgumentTypeError(message)
    return text


def _picture(text: str) -> Path:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise argparse.ArgumentTypeError('needs matplotlib: pip install matplotlib') from error
    path, known = Path(text), Figure().canvas.get_supported_filetypes()
    if path.suffix[1:] not in known:
        raise argparse.ArgumentTypeError(f'{text} ends in none of .{", .".join(known)}')
    return path
