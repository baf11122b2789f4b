"""What training and testing make of a config and the command line."""

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from mmvheat.engine.compile import use_compile
from mmvheat.engine.distributed import is_first_process, uses_cpu
from mmvheat.engine.tta import use_tta
from mmvheat.errors import UserError

from .preflight import check_initial_weights, find_resumable, read_resumable, read_weights

__all__ = [
    'LIBRARIES',
    'load_config',
    'prepare_testing',
    'prepare_training',
    'writable_folder',
]


# Scope of a config: the extra of this project that installs its library.
LIBRARIES = {'mmpretrain': 'classification', 'mmdet': 'detection', 'mmseg': 'segmentation'}


def load_config(args: argparse.Namespace) -> Config:
    """Read the config of ``args`` and merge what both tools take from the command line.

    Args:
        args: With ``config``, ``cfg_options``, ``launcher`` and ``work_dir``.

    Returns:
        A config of one of the three libraries, which is imported, with an absolute ``work_dir``.

    Raises:
        UserError: If any of that cannot be had.
    """
    path = Path(args.config)
    if not path.is_file():
        raise UserError(f'{path} does not exist or is no file: give the path of a config')
    try:
        cfg = Config.fromfile(str(path))
    except Exception as error:  # A config is code of the user's: it may raise anything.
        text = ' '.join(str(error).split())
        raise UserError(
            f'{path} cannot be read as a config: {type(error).__name__}: {text}'
        ) from error
    for key, value in (args.cfg_options or {}).items():
        try:
            cfg.merge_from_dict({key: value})
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            text = ' '.join(str(error).split())
            raise UserError(f'--cfg-options {key}={value}: {text}') from error
    _import_library(cfg, path)
    cfg.launcher = args.launcher
    # Command line before config before the default.
    work_dir = args.work_dir or cfg.get('work_dir') or f'./work_dirs/{path.stem}'
    cfg.work_dir = str(Path(work_dir).absolute())
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(name):
            cfg[name] = _complete_dataloader(cfg[name], cfg.default_scope)
    return cfg


def writable_folder(folder: str, option: str) -> Path:
    """Make a folder and check that files can be written there.

    Returns:
        Its absolute path.

    Raises:
        UserError: If that fails.
    """
    path = Path(folder).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f'{option} {folder} cannot be made: {error.strerror}; give a folder that can be written'
        ) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f'{option} {folder} cannot be written: give another folder')
    return path


def _import_library(cfg: Config, path: Path) -> None:
    """Check the scope of a config and import its library."""
    scope = cfg.get('default_scope')
    if scope not in LIBRARIES:
        found = 'no default_scope' if scope is None else f'default_scope={scope!r}'
        raise UserError(
            f'{path} has {found}: expected {", ".join(map(repr, LIBRARIES))}; inherit that '
            "library's default_runtime.py or set default_scope"
        )
    try:
        import_module(scope)
    except ImportError as error:
        raise UserError(
            f'{path} needs {scope}, which cannot be imported ({error}): '
            f"pip install 'mmvheat[{LIBRARIES[scope]}]'"
        ) from error


def _complete_dataloader(loader: ConfigDict, scope: str) -> ConfigDict:
    """Fill in what the library's own tools do, and drop what torch refuses or warns of."""
    if scope == 'mmpretrain':
        defaults = dict(
            pin_memory=True, persistent_workers=True, collate_fn=dict(type='default_collate')
        )
        loader = ConfigDict({**defaults, **loader})
    if not loader.get('num_workers', 0):
        loader.pop('persistent_workers', None)
        loader.pop('prefetch_factor', None)
    if uses_cpu():
        loader.pop('pin_memory', None)
    return loader


def prepare_training(args: argparse.Namespace) -> Config:
    """Read a config and merge the command line into it.

    Args:
        args: What ``tools/train.py`` parsed.

    Returns:
        A config for :class:`mmvheat.engine.runner.Runner`.

    Raises:
        UserError: If the arguments cannot work, before anything is built.
    """
    cfg = load_config(args)
    for name in ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'):
        if cfg.get(name) is None:
            raise UserError(f'{args.config} has no {name}: it is no config for training')
    check_initial_weights(cfg.model, Path(args.config))
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
    _choose_start(cfg, args.resume)
    if args.compile:
        use_compile(cfg, args.compile)
    writable_folder(cfg.work_dir, '--work-dir')
    return cfg


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


def _choose_start(cfg: Config, resume: str | None) -> None:
    """Decide between the start, ``load_from`` and a checkpoint to resume."""
    cfg.resume = bool(resume or cfg.get('resume'))
    path = resume if resume not in (None, 'auto') else None
    if path is None and resume is None and cfg.resume:
        path = cfg.get('load_from')
    if cfg.resume and path is None:
        folder, filename_tmpl = _checkpoint_place(cfg)
        found = find_resumable(folder, filename_tmpl)
        if found is None:
            _log(f'No checkpoint to resume in {folder}: training starts anew.')
            cfg.resume = False
        else:
            path, meta = found
    elif cfg.resume:
        meta = read_resumable(path)
    if not cfg.resume:
        if cfg.get('load_from'):
            read_weights(cfg.load_from)
        return
    cfg.load_from = path
    _log(f'Resuming {path}: iteration {meta["iter"]}, epoch {meta["epoch"]}.')
    # The order of the data comes from the seed, which mmengine restores too late for them.
    seed, given = meta.get('seed'), cfg.get('randomness', {}).get('seed')
    if seed is not None:
        if given not in (None, seed):
            _log(f'{path} was trained with seed {seed}: resuming with that, not with {given}.')
        _set_seed(cfg, seed)


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
