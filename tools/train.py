"""Train a classifier, detector or segmentor: the config's scope decides."""

import argparse
import sys

from mmvheat.cli.arguments import RunParser
from mmvheat.cli.command import run_command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = RunParser(description='Train a model of mmpretrain, mmdet or mmseg.')
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint; without one, from the newest in the work dir, and from '
        'the start if there is none',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision: float16 on a GPU, bfloat16 feature extraction on a CPU',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the real batch size / auto_scale_lr.base_batch_size',
    )
    parser.add_argument(
        '--tensorboard',
        action='store_true',
        help='write the curves for TensorBoard too: tensorboard --logdir WORK_DIR shows them',
    )
    parser.add_argument('--seed', type=int, help='seed of the run (randomness.seed)')
    parser.add_common_arguments()
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Build the Runner from config and command line, and train."""
    args = parse_args(argv)
    from mmvheat.cli.prepare import prepare_training
    from mmvheat.engine.distributed import die_with_launcher, end_group
    from mmvheat.engine.runner import build_runner

    die_with_launcher()
    cfg, start = prepare_training(args)
    runner = build_runner(cfg, args.config)
    if start is not None:
        start.check_fit(runner.model, exact=cfg.resume)
    runner.train()
    del runner
    end_group()


if __name__ == '__main__':
    sys.exit(run_command(main))
