"""Test an exported file by the data and the metrics of its config."""

import argparse
import sys

from mmvheat.cli.arguments import OneLineParser, add_work_dir_and_options
from mmvheat.cli.command import run_command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = OneLineParser(description='Test an exported file with the config it came from.')
    parser.add_argument('config', help='config file')
    parser.add_argument('file', help='.onnx, .xml, .pt2 or .torchscript file of tools/export.py')
    parser.add_argument(
        '--out',
        metavar='FILE.pkl',
        help='write the predictions to this pickle file; for mmseg a name without .pkl is a folder '
        'that gets the label maps as png files',
    )
    parser.add_argument(
        '--show-dir',
        metavar='DIR',
        help='draw the predictions of every image under this folder (mmseg: under '
        'DIR/vis_data/vis_image)',
    )
    add_work_dir_and_options(parser)
    # What tools/test.py has beside these makes no sense for a file.
    parser.set_defaults(show=False, tta=False, compile=None, launcher='none')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Build the Runner around the exported file, and test."""
    args = parse_args(argv)
    from mmvheat.cli.dump import build_dump
    from mmvheat.cli.prepare import prepare_testing_exported
    from mmvheat.engine.runner import build_runner

    cfg = prepare_testing_exported(args)
    runner = build_runner(cfg, args.config)
    dump = build_dump(cfg.default_scope, args.out)
    if dump is not None:
        runner.test_evaluator.metrics.append(dump)
    runner.test()


if __name__ == '__main__':
    sys.exit(run_command(main))
