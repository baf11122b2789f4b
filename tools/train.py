"""Train a classifier, detector or segmentor: the config's scope decides."""

import sys

from mmvheat.cli.arguments import ArgumentParser
from mmvheat.cli.command import run_command
from mmvheat.engine.distributed import die_with_launcher, end_group
from mmvheat.errors import config_errors


def parse_args(argv: list[str] | None = None):
    """Read the command line."""
    parser = ArgumentParser('Train a model of mmpretrain, mmdet or mmseg.')
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
    parser.add_argument('--seed', type=int, help='seed of the run (randomness.seed)')
    parser.add_common_arguments()
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Build the Runner from config and command line, and train."""
    args = parse_args(argv)
    from mmengine.registry import RUNNERS
    from torch import nn

    from mmvheat.cli.config import prepare_training
    from mmvheat.cli.preflight import read_weights
    from mmvheat.engine.runner import Runner
    from mmvheat.engine.weights_fit import check_start, check_weights_fit

    cfg = prepare_training(args)
    with config_errors(args.config):
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    # Strategies build the model later.
    if cfg.get('load_from') and isinstance(runner.model, nn.Module):
        check = check_weights_fit if cfg.resume else check_start
        check(runner.model, read_weights(cfg.load_from), cfg.load_from)
    runner.train()
    del runner
    end_group()


if __name__ == '__main__':
    die_with_launcher()
    sys.exit(run_command(main))
