"""Read a config for a command line: of one of the three libraries, with all its mistakes told."""

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmvheat.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config, ConfigDict

__all__ = ['LIBRARIES', 'load_config', 'require', 'writable_folder']

# Scope of a config: the extra of this project that installs its library.
LIBRARIES = {'mmpretrain': 'classification', 'mmdet': 'detection', 'mmseg': 'segmentation'}


def load_config(config: str, options: dict[str, Any] | None = None) -> 'Config':
    """Read a config, and do what its library's own tools do to it.

    Args:
        config: Its path.
        options: What ``--cfg-options`` gave: settings to override.

    Returns:
        A config of one of the three libraries, which is imported.

    Raises:
        UserError: If any of that cannot be had.
    """
    path = Path(config)
    if not path.is_file():
        raise UserError(f'{path} does not exist or is no file: give the path of a config')
    from mmengine.config import Config

    try:
        cfg = Config.fromfile(str(path))
    except Exception as error:  # A config is code of the user's: it may raise anything.
        raise UserError(
            f'{path} cannot be read as a config: {type(error).__name__}: {_one_line(error)}'
        ) from error
    for key, value in (options or {}).items():
        try:
            cfg.merge_from_dict({key: value})
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise UserError(f'--cfg-options {key}={value}: {_one_line(error)}') from error
    _import_library(cfg, path)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(name):
            cfg[name] = _complete_dataloader(cfg[name], cfg.default_scope)
    return cfg


def require(cfg: 'Config', config: str, names: tuple[str, ...], purpose: str) -> None:
    """Check that a config has what a command needs.

    Args:
        cfg: The config.
        config: Its path, for the message.
        names: Settings that it must have.
        purpose: What they are for, for the message.

    Raises:
        UserError: If one is missing.
    """
    for name in names:
        if cfg.get(name) is None:
            raise UserError(f'{config} has no {name}: it is no config for {purpose}')


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


def _import_library(cfg: 'Config', path: Path) -> None:
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


def _complete_dataloader(loader: 'ConfigDict', scope: str) -> 'ConfigDict':
    """Fill in what the library's own tools do, and drop what torch refuses or warns of."""
    from mmengine.config import ConfigDict

    from mmvheat.engine.distributed import uses_cpu

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


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split())
