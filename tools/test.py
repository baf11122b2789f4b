"""Test a classifier, detector or segmentor: the config's scope decides."""

import argparse
import sys

from mmvheat.cli.arguments import RunParser
from mmvheat.cli.command import run_command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = RunParser(description='Test (and evaluate) a model of mmpretrain, mmdet or mmseg.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument(
        '--out',
        metavar='FILE.pkl',
        help='write the predictions to this pickle file; for mmseg a name without .pkl is a folder '
        'that gets the label maps as png files',
    )
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument(
        '--show-dir',
        metavar='DIR',
        help='draw the predictions of every image under this folder (mmseg: under '
        'DIR/vis_data/vis_image); of several processes the first alone draws its share',
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that --show shows an image (2)'
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help="test-time augmentation by the config's tta_model and tta_pipeline, or by flipping",
    )
    parser.add_common_arguments()
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Build the Runner from config and command line, and test."""
    args = parse_args(argv)
    from mmvheat.cli.dump import build_dump
    from mmvheat.cli.prepare import prepare_testing
    from mmvheat.engine.distributed import die_with_launcher, end_group
    from mmvheat.engine.runner import build_runner

    die_with_launcher()
    cfg, checkpoint = prepare_testing(args)
    runner = build_runner(cfg, args.config)
    checkpoint.check_fit(runner.model, exact=True)
    dump = build_dump(cfg.default_scope, args.out)
    if dump is not None:
        runner.test_evaluator.metrics.append(dump)
    runner.test()
    del runner
    end_group()


if __name__ == '__main__':
    sys.exit(run_command(main))
