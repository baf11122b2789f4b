"""The config of a test run from the command line of ``tools/test.py``."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.evaluator import DumpResults

from mmvheat.errors import UserError

from .common_config import load_config, writable_folder
from .compile_hook import use_compile
from .dump_segmentation import DumpSegmentation
from .tta import use_tta

__all__ = ['build_dump', 'prepare_testing']


def prepare_testing(args: argparse.Namespace) -> Config:
    """Read a config and merge the command line into it.

    Args:
        args: What ``tools/test.py`` parsed.

    Returns:
        A config for :class:`mmvheat.engine.runner.Runner`.

    Raises:
        UserError: If the arguments cannot work, before anything is built.
    """
    cfg = load_config(args)
    for name in ('model', 'test_dataloader', 'test_cfg', 'test_evaluator'):
        if cfg.get(name) is None:
            raise UserError(f'{args.config} has no {name}: it is no config for testing')
    cfg.load_from = args.checkpoint
    cfg.resume = False
    # Testing needs none of it, and loaders may name data that a tester does not have. A sharded
    # training saves whole checkpoints, so the ordinary Runner tests them.
    unused = ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler')
    unused += ('val_dataloader', 'val_cfg', 'val_evaluator')
    if 'strategy' in cfg:
        unused += ('strategy', 'runner_type')
    for name in unused:
        cfg.pop(name, None)
    if args.tta:
        use_tta(cfg)
    if args.show or args.show_dir:
        _visualize(cfg, args)
    if args.out:
        _check_out(cfg, args.out)
    if args.compile:
        use_compile(cfg, args.compile)
    writable_folder(cfg.work_dir, '--work-dir')
    return cfg


def build_dump(scope: str, out: str | None) -> DumpResults | None:
    """Build the metric that writes predictions to ``out``, if that is a pickle file."""
    if out is None or not out.endswith(('.pkl', '.pickle')):
        return None
    if scope == 'mmdet':
        from mmdet.evaluation import DumpDetResults

        return DumpDetResults(out_file_path=out)
    return (DumpSegmentation if scope == 'mmseg' else DumpResults)(out_file_path=out)


def _check_out(cfg: Config, out: str) -> None:
    """Check ``--out`` before hours of testing; let mmseg write its pictures to a folder."""
    if out.endswith(('.pkl', '.pickle')):
        if Path(out).is_dir():
            raise UserError(f'--out {out} is a folder: give the name of a file')
        writable_folder(str(Path(out).parent), '--out')
        return
    if cfg.default_scope != 'mmseg':
        raise UserError(f'--out {out}: expected a file name that ends in .pkl')
    folder = str(writable_folder(out, '--out'))
    evaluators = cfg.test_evaluator
    for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
        if str(evaluator.get('type')).endswith('IoUMetric'):
            evaluator.output_dir = folder


def _visualize(cfg: Config, args: argparse.Namespace) -> None:
    """Set the library's visualization hook to draw every image."""
    hook: Any = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise UserError(
            f'--show and --show-dir need default_hooks.visualization in {args.config}: '
            'inherit the default_runtime.py of its library'
        )
    on_linux = sys.platform.startswith('linux')
    if args.show and on_linux and not {'DISPLAY', 'WAYLAND_DISPLAY'} & set(os.environ):
        raise UserError('--show needs a display and there is none: use --show-dir DIR')
    if args.tta and cfg.default_scope == 'mmpretrain':
        raise UserError(
            '--tta: the visualization hook of mmpretrain draws single images, not their augmented '
            'views: test with either --tta or --show, --show-dir'
        )
    folder = str(writable_folder(args.show_dir, '--show-dir')) if args.show_dir else None
    hook.interval = 1
    if args.show:
        hook.show = True
        hook.wait_time = args.wait_time
    if cfg.default_scope == 'mmpretrain':
        hook.enable = True
        hook.out_dir = folder
        return
    hook.draw = True
    if folder and cfg.default_scope == 'mmdet':
        hook.test_out_dir = folder
    elif folder:
        default = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
        cfg.visualizer = dict(cfg.get('visualizer', default), save_dir=folder)
