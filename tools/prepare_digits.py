"""Make the embedded demo data: handwritten digits, alone and composed into scenes."""

import argparse
import sys
import time

from digits import DigitsSpec, prepare_digits
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmvheat.cli.arguments import OneLineParser
from mmvheat.cli.command import run_command
from mmvheat.errors import UserError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    default = DigitsSpec()
    parser = OneLineParser(description=__doc__)
    parser.add_argument('--data-root', default='data/digits', help='folder to make')
    parser.add_argument('--seed', type=int, default=default.seed)
    parser.add_argument('--num-train-scenes', type=int, default=default.num_train_scenes)
    parser.add_argument('--num-val-scenes', type=int, default=default.num_val_scenes)
    parser.add_argument('--num-train-digits', type=int, default=default.num_train_digits)
    parser.add_argument('--num-val-digits', type=int, default=default.num_val_digits)
    parser.add_argument('--train-renders', type=int, default=default.train_renders)
    parser.add_argument('--val-renders', type=int, default=default.val_renders)
    parser.add_argument('--force', action='store_true', help='make the data even if they are there')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Make the data, or find them made."""
    args = vars(parse_args(argv))
    data_root = args.pop('data_root')
    console = Console()
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('images, left'),
        TimeRemainingColumn(),
    )
    start = time.perf_counter()
    try:
        with Progress(*columns, console=console) as bar:
            task = bar.add_task('drawing digits', total=None, visible=False)

            def advance(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total, visible=True)

            root = prepare_digits(data_root, **args, progress=advance)
            made = bar.tasks[task].completed
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        reason = f'{error.strerror}: {error.filename}'
        raise UserError(
            f'cannot write data root {data_root!r} ({reason}): name another --data-root'
        ) from error
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt('the data root is as it was') from stop
    seconds = time.perf_counter() - start
    what = f'made {made:.0f} images in {seconds:.0f} s' if made else 'already complete'
    console.print(f'{root}: {what}', highlight=False, soft_wrap=True)


if __name__ == '__main__':
    sys.exit(run_command(main))
