"""Time exported files against each other, each in its own runtime: what int8 gains, or OpenVINO.

The files are of ``tools/export.py`` and take the same images. Ratios are to the first file.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from options import positive, seconds

from mmvheat.cli.arguments import OneLineParser, add_size_argument
from mmvheat.cli.command import run_command
from mmvheat.errors import UserError


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = OneLineParser(description=__doc__.partition('\n')[0])
    add = parser.add_argument
    add('files', nargs='+', type=Path, metavar='FILE', help='file of tools/export.py')
    add('--batch', type=positive, nargs='+', default=[1, 8], metavar='N', help='images (1 8)')
    add_size_argument(parser, '--size', 'images: N or H W, for files of any size (224)', False)
    add('--threads', type=positive, default=1, metavar='N', help='threads of each runtime (1)')
    text = 'rounds, each of one sample of every file (25)'
    add('--repetitions', type=positive, default=25, metavar='N', help=text)
    text = 'a sample is the mean of as many calls as take so many milliseconds (20)'
    add('--sample-ms', type=seconds, default=20.0, metavar='MS', help=text)
    text = 'measure time of the processor, not of the clock, for a machine that is busy'
    add('--cpu-time', action='store_true', help=text)
    add('--json', type=Path, metavar='FILE', help='write all samples there')
    args = parser.parse_args(argv)
    if args.cpu_time and args.threads > 1:
        raise UserError('--cpu-time counts threads that wait for work: leave out --threads')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Open the files, time and report."""
    args = parse_args(argv)
    import time
    from functools import partial

    import torch
    from harness import Benchmark

    from mmvheat.export import open_exported
    from mmvheat.export.verify import images

    args.device, args.dtype = torch.device('cpu'), 'as exported'
    torch.set_num_threads(args.threads)
    models = {path.name: open_exported(path, args.threads) for path in args.files}
    if len(models) < len(args.files):
        raise UserError('two of the files have one name: rename them')
    samples = len(args.batch) * len(models) * args.repetitions
    with Benchmark('exported', args, samples, 'exported files') as bench:
        if args.cpu_time:
            bench.clock = time.process_time
        for batch in args.batch:
            calls = {}
            for name, model in models.items():
                told = model.metadata
                if told.batch not in ('dynamic', batch):
                    raise UserError(f'{name} takes {told.batch} images at once: give --batch')
                size = (args.size or (224, 224)) if told.size == 'dynamic' else told.size
                calls[name] = partial(model, images('blots', size, batch, 0, told.preprocess))
            rows = bench.time('inference', f'batch {batch}', calls, each_alone=True)
            bench.write()
            header = ('', 'ms', f'times {rows[0].name}')
            lines = [(row.name, row.seconds * 1e3, row.ratio) for row in rows]
            bench.table(f'Inference, batch {batch}', header, lines)


if __name__ == '__main__':
    sys.exit(run_command(main))
