"""What training and testing make of a config and the command line."""

import argparse
import os
from importlib import import_module
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmvheat.errors import UserError

from .process_group import uses_cpu

__all__ = ['LIBRARIES', 'load_config', 'writable_folder']

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
