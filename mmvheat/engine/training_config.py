"""The config of a training run from the command line of ``tools/train.py``."""

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from mmvheat.command_line import is_first_process
from mmvheat.errors import UserError

from .checkpoint_check import find_resumable, read_resumable, read_weights
from .common_config import load_config, writable_folder
from .compile_hook import use_compile
from .initial_weights import check_initial_weights
from .process_group import uses_cpu

__all__ = ['prepare_training']


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
