"""Train the study's grid within a time budget, resume it, and report what was measured."""

import argparse
import signal
import sys
from pathlib import Path

from rich.console import Console
from studies.grid import ARMS, STUDIES

from mmvheat.cli.arguments import OneLineParser
from mmvheat.cli.command import run_command
from mmvheat.errors import UserError

TOP = Path(__file__).resolve().parents[1]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument('--list', action='store_true', help='show what is done and what is left')
    parser.add_argument(
        '--report', action='store_true', help='write docs/study.md and its pictures, train nothing'
    )
    parser.add_argument(
        '--budget', type=float, default=240, metavar='MINUTES', help='stop after these (240)'
    )
    parser.add_argument('--only', choices=list(STUDIES), help='this sub-study alone')
    parser.add_argument('--seeds', type=int, default=3, help='runs of every row (3)')
    parser.add_argument('--processes', type=int, default=2, help='runs at a time (2)')
    parser.add_argument(
        '--work-dir', type=Path, default=TOP / 'work_dirs' / 'study',
        help='for logs and checkpoints (work_dirs/study)',
    )  # fmt: skip
    parser.add_argument(
        '--results', type=Path, default=TOP / 'docs' / 'study', help='for results (docs/study)'
    )
    parser.add_argument('--fashion-mnist', help='where Fashion-MNIST is, if it is not prepared yet')
    parser.add_argument('--stamps', help='where the stamps of Tux Paint are, likewise')
    args = parser.parse_args(argv)
    if args.budget <= 0 or args.seeds < 1 or args.processes < 1:
        parser.error('--budget, --seeds and --processes are positive')
    return args


def prepare_data(configs: set[str], fashion_mnist: str | None, stamps: str | None) -> None:
    """Make the data that configs need, unless they are there.

    Raises:
        UserError: If what they are made of is not there.
    """
    from digits import prepare_digits
    from prepare_fashion_mnist import PACKAGE, prepare_fashion_mnist
    from stamps import STAMPS, prepare_stamps

    data = TOP / 'data'
    needed = {
        'fashion': lambda: prepare_fashion_mnist(
            str(data / 'fashion_mnist'), fashion_mnist or PACKAGE
        ),
        'stamp': lambda: prepare_stamps(data / 'stamps', stamps or STAMPS),
        'digit': lambda: prepare_digits(data / 'digits'),
    }
    folders = {'fashion': 'fashion_mnist', 'stamp': 'stamps', 'digit': 'digits'}
    for word, prepare in needed.items():
        is_needed = any(word in config for config in configs)
        if is_needed and not (data / folders[word] / 'manifest.json').is_file():
            prepare()


def main(argv: list[str] | None = None) -> int:
    """Run, list or report; return the exit status, which is 1 if a run failed."""
    args = parse_args(argv)
    console = Console(soft_wrap=True)
    from studies.driver import Study
    from studies.records import Records

    records = Records(args.results)
    if args.report:
        from studies.report import write_report

        for path in write_report(records, ARMS, args.results.absolute().parent):
            console.print(f'wrote {path}', highlight=False)
        return 0
    study = Study(ARMS, records, args.work_dir, TOP, args.seeds, args.only, console)
    if args.list:
        console.print(study.table(args.processes))
        return 0
    from filelock import FileLock, Timeout

    args.work_dir.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(args.work_dir / '.lock').acquire(timeout=0)
    except Timeout as error:
        raise UserError(f'another study runs in {args.work_dir}: wait, or stop it') from error
    # Stopped by `kill` or by Ctrl-C is the same.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with lock:
            prepare_data({job.arm.config for job in study.left()}, args.fashion_mnist, args.stamps)
            if args.only in (None, 'ablation'):
                study.measure_costs()
            study.run(args.budget, args.processes)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt('the same command goes on with what is left') from stop
    for path, cause in study.failed.items():
        sys.stderr.write(f'error: {path}: {cause}\n')
    left = len(study.left())
    console.print(
        f'{left} runs left: the same command goes on; --report writes docs/study.md'
        if left
        else 'nothing left; --report writes docs/study.md',
        highlight=False,
    )
    return 1 if study.failed else 0


if __name__ == '__main__':
    sys.exit(run_command(main))
