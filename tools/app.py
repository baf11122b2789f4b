"""Serve a page in which one can watch heat spread in a vHeat, and what the model finds."""

import argparse
import os
import signal
import tempfile
import threading
from pathlib import Path

from mmvheat.cli.arguments import OneLineParser
from mmvheat.cli.command import run_main
from mmvheat.errors import UserError

TOP = Path(__file__).resolve().parents[1]
DEMO = TOP / 'work_dirs' / 'demo' / 'pretrained'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = OneLineParser(
        description='Serve a page in which heat spreads from a pixel, beside what a classifier, '
        'detector or segmentor finds in the image. Without arguments: the models of `make demo`.'
    )
    add = parser.add_argument
    add('--config', action='append', default=[], help='config file; may be given several times')
    add(
        '--checkpoint',
        action='append',
        default=[],
        metavar='CKPT',
        help='its checkpoint file or URL; one for each --config, in the same order',
    )
    add('--device', help='cpu, cuda, cuda:1, ... (the GPU if there is one)')
    add(
        '--host',
        default='127.0.0.1',
        help='address to listen on (127.0.0.1: this machine alone; 0.0.0.0: any that reaches it)',
    )
    add('--port', type=_port, help='port to listen on (7860, or the next free one)')
    args = parser.parse_args(argv)
    if len(args.config) != len(args.checkpoint):
        parser.error(
            f'each --config needs a --checkpoint: got {len(args.config)} and '
            f'{len(args.checkpoint)} of them'
        )
    return args


def main(argv: list[str] | None = None) -> None:
    """Load the models and serve until it is interrupted."""
    args = parse_args(argv)
    pairs = list(zip(args.config, args.checkpoint, strict=True)) or demo_pairs(DEMO)
    # Uploads and pictures live as long as the page.
    with tempfile.TemporaryDirectory(prefix='mmvheat-app-') as folder:
        # gradio asks for it when it is imported.
        os.environ['GRADIO_TEMP_DIR'] = folder
        from mmvheat.cli.model import check_device
        from mmvheat.extras import needs

        needs('gradio', 'app')
        from heat_page.answers import Answers
        from heat_page.layout import Page
        from heat_page.models import load_models

        home = Path.cwd() if args.config else TOP
        # Also a page that was started in the background, where Ctrl-C is ignored, cleans up.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        page = Page(Answers(load_models(pairs, check_device(args.device), home)))
        print(f'page: {page.serve(args.host, args.port)} (Ctrl-C ends it)', flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass
        finally:
            page.blocks.close(verbose=False)


def demo_pairs(work_dir: Path) -> list[tuple[str, str]]:
    """Find what ``make demo`` trained: the config and the last checkpoint of each of its models.

    Args:
        work_dir: Where it did.

    Raises:
        UserError: If there is nothing.
    """
    pairs = []
    for folder in (work_dir / name for name in ('cls', 'det', 'seg')):
        # A training writes its config beside its checkpoints.
        configs = sorted(folder.glob('*.py'))
        checkpoints = sorted(folder.glob('iter_*.pth'), key=_iteration)
        if configs and checkpoints:
            pairs.append((str(configs[-1]), str(checkpoints[-1])))
    if not pairs:
        raise UserError(
            f'there are no checkpoints of the demo in {work_dir}: train them with `make demo`, or '
            'name a model, --config CONFIG --checkpoint CKPT'
        )
    return pairs


def _iteration(checkpoint: Path) -> int:
    number = checkpoint.stem.removeprefix('iter_')
    return int(number) if number.isdecimal() else -1


def _port(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f'{text!r} is not a port in 1..65535')
    return int(text)


if __name__ == '__main__':
    run_main(main)
