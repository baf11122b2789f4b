"""What a training and a test make of a config and the command line, checked before they start."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from mmvheat.engine.compile import use_compile
from mmvheat.engine.distributed import uses_cpu
from mmvheat.engine.tta import use_tta
from mmvheat.errors import UserError, is_first_process

from .config import LIBRARIES, load_config, require, writable_folder
from .preflight import Checkpoint, check_initial_weights, find_resumable, open_checkpoint

__all__ = ['prepare_testing', 'prepare_testing_exported', 'prepare_training']

# What only training and validation use: a tester may lack the data that their loaders name.
_NOT_FOR_TESTING = (
    'train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'val_dataloader',
    'val_cfg', 'val_evaluator',
)  # fmt: skip


def prepare_training(args: argparse.Namespace) -> tuple[Config, Checkpoint | None]:
    """Read a config, merge the command line into it and open the checkpoints that it names.

    Args:
        args: What ``tools/train.py`` parsed.

    Returns:
        A config for :class:`mmvheat.engine.runner.Runner`, and the checkpoint that training starts
        or resumes from, if there is one.

    Raises:
        UserError: If the arguments cannot work, before anything is built.
    """
    cfg = _load(args)
    require(
        cfg, args.config, ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'), 'training'
    )
    open_once = cache(open_checkpoint)
    check_initial_weights(cfg.model, args.config, open_once)
    if args.seed is not None:
        _set_seed(cfg, args.seed)
    _choose_precision(cfg, args.amp)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise UserError(
                f'--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in {args.config}: '
                'the batch size, over all devices, that its learning rate is for'
            )
        cfg.auto_scale_lr.enable = True
    if args.tensorboard:
        _add_tensorboard(cfg)
    start = _choose_start(cfg, args.resume, open_once)
    _finish(cfg, args)
    return cfg, start


def prepare_testing(args: argparse.Namespace) -> tuple[Config, Checkpoint]:
    """Read a config, merge the command line into it and open the checkpoint to test.

    Args:
        args: What ``tools/test.py`` parsed.

    Returns:
        A config for :class:`mmvheat.engine.runner.Runner`, and the checkpoint.

    Raises:
        UserError: If the arguments cannot work, before anything is built.
    """
    checkpoint = open_checkpoint(args.checkpoint)
    checkpoint.check_weights()
    cfg = _load_for_testing(args)
    cfg.load_from = args.checkpoint
    if args.tta:
        use_tta(cfg)
    _choose_outputs(cfg, args)
    _finish(cfg, args)
    return cfg, checkpoint


def prepare_testing_exported(args: argparse.Namespace) -> Config:
    """Read a config, and let an exported file take the place of its model.

    Args:
        args: What ``tools/test_exported.py`` parsed.

    Returns:
        A config for :class:`mmvheat.engine.runner.Runner`.

    Raises:
        UserError: If the arguments cannot work, before anything is built.
    """
    from mmvheat.export.exported_model import ExportedModel
    from mmvheat.export.runtimes import open_exported

    metadata = open_exported(args.file).metadata
    cfg = _load_for_testing(args)
    if LIBRARIES[cfg.default_scope] != metadata.task:
        raise UserError(
            f'{args.file} gives {metadata.task}, {args.config} tests '
            f'{LIBRARIES[cfg.default_scope]}: give the config that the file was exported with'
        )
    model, cfg.load_from = cfg.model, None
    cfg.model = dict(
        type=f'mmvheat.{ExportedModel.__name__}',
        file=args.file,
        data_preprocessor=_rgb_preprocessor(cfg, metadata.mean, metadata.std),
        test_cfg=model.get('test_cfg'),
        align_corners=(model.get('decode_head') or {}).get('align_corners', False),
    )
    _choose_outputs(cfg, args)
    _finish(cfg, args)
    return cfg


def _rgb_preprocessor(cfg: Config, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """The config's preprocessor, made to give what exported files take: RGB, normalised."""
    kinds = dict(
        mmpretrain='ClsDataPreprocessor', mmdet='DetDataPreprocessor', mmseg='SegDataPreProcessor'
    )
    settings = dict(cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {})
    settings.setdefault('type', kinds[cfg.default_scope])
    settings.pop('rgb_to_bgr', None)
    flag = 'to_rgb' if cfg.default_scope == 'mmpretrain' else 'bgr_to_rgb'
    return {**settings, 'mean': list(mean), 'std': list(std), flag: True}


def _load_for_testing(args: argparse.Namespace) -> Config:
    """Read the config without what only training and validation use."""
    cfg = _load(args)
    require(cfg, args.config, ('model', 'test_dataloader', 'test_cfg', 'test_evaluator'), 'testing')
    cfg.resume = False
    # A sharded training saves whole checkpoints, so the ordinary Runner tests them.
    for name in _NOT_FOR_TESTING + ('strategy', 'runner_type') * ('strategy' in cfg):
        cfg.pop(name, None)
    return cfg


def _choose_outputs(cfg: Config, args: argparse.Namespace) -> None:
    """Choose what a test draws and writes."""
    if args.show or args.show_dir:
        _visualize(cfg, args)
    if args.out:
        _check_out(cfg, args.out)


def _load(args: argparse.Namespace) -> Config:
    """Read the config with the options that training and testing share."""
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    # Command line before config before the default.
    work_dir = args.work_dir or cfg.get('work_dir') or f'./work_dirs/{Path(args.config).stem}'
    cfg.work_dir = str(Path(work_dir).absolute())
    return cfg


def _finish(cfg: Config, args: argparse.Namespace) -> None:
    """Do what can only be done, or may only be written, once all else is checked."""
    if args.compile:
        use_compile(cfg, args.compile)
    writable_folder(cfg.work_dir, '--work-dir')


def _log(message: str) -> None:
    if is_first_process():
        print_log(message, 'current')


def _set_seed(cfg: Config, seed: int) -> None:
    cfg.randomness = dict(cfg.get('randomness', {}), seed=seed)


def _choose_precision(cfg: Config, amp: bool) -> None:
    """Switch mixed precision on, and to its CPU form where there is no GPU."""
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if amp and kind == 'OptimWrapper':
        kind = cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    elif amp and kind not in ('AmpOptimWrapper', 'mmvheat.CPUAmpOptimWrapper'):
        raise UserError(f"--amp works with optim_wrapper.type 'OptimWrapper', got {kind!r}")
    if kind == 'AmpOptimWrapper' and uses_cpu():
        cfg.optim_wrapper.type = 'mmvheat.CPUAmpOptimWrapper'
        for name in ('loss_scale', 'dtype', 'use_fsdp'):
            cfg.optim_wrapper.pop(name, None)


def _add_tensorboard(cfg: Config) -> None:
    """Let the config's visualizer write curves for TensorBoard beside what it writes."""
    if find_spec('tensorboard') is None:
        raise UserError(
            '--tensorboard needs tensorboard, which is not installed: pip install tensorboard'
        )
    visualizer = cfg.get('visualizer') or dict(type='Visualizer')
    backends = list(visualizer.get('vis_backends') or [dict(type='LocalVisBackend')])
    if not any(backend['type'] == 'TensorboardVisBackend' for backend in backends):
        backends.append(dict(type='TensorboardVisBackend'))
    cfg.visualizer = dict(visualizer, vis_backends=backends)


def _choose_start(
    cfg: Config, resume: str | None, open_once: Callable[[str], Checkpoint]
) -> Checkpoint | None:
    """Decide between a checkpoint to resume, ``load_from`` and a start without either."""
    cfg.resume = bool(resume or cfg.get('resume'))
    if not cfg.resume:
        return _first_weights(cfg, open_once)
    path = cfg.get('load_from') if resume is None else resume
    if path in (None, 'auto'):
        folder, filename_tmpl = _checkpoint_place(cfg)
        start = find_resumable(folder, filename_tmpl)
        if start is None:
            _log(f'No checkpoint to resume in {folder}: training starts anew.')
            cfg.resume = False
            return _first_weights(cfg, open_once)
    else:
        start = open_once(path)
        start.check_resumable()
        start.check_data()
    cfg.load_from = start.path
    _log(f'Resuming {start.path}: iteration {start.meta["iter"]}, epoch {start.meta["epoch"]}.')
    # The order of the data comes from the seed, which mmengine restores too late for them.
    seed, given = start.meta.get('seed'), cfg.get('randomness', {}).get('seed')
    if seed is not None:
        if given not in (None, seed):
            _log(
                f'{start.path} was trained with seed {seed}: resuming with that, not with {given}.'
            )
        _set_seed(cfg, seed)
    return start


def _first_weights(cfg: Config, open_once: Callable[[str], Checkpoint]) -> Checkpoint | None:
    """Open ``load_from``, if the config has it."""
    if not cfg.get('load_from'):
        return None
    start = open_once(cfg.load_from)
    start.check_weights()
    return start


def _checkpoint_place(cfg: Config) -> tuple[str, str | None]:
    """Tell where a run saves its checkpoints, and its template of their names if it has one."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    out_dir = hook.get('out_dir')
    if out_dir is None:
        return cfg.work_dir, hook.get('filename_tmpl')
    if '://' in out_dir:
        raise UserError(
            f'default_hooks.checkpoint.out_dir={out_dir} cannot be searched for the checkpoint to '
            'resume: name it, --resume CHECKPOINT'
        )
    # As mmengine's hook does.
    folder = str(Path(out_dir, Path(cfg.work_dir).name))
    return folder, hook.get('filename_tmpl')


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
