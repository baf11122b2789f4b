"""Read a checkpoint for the tools: whatever is wrong with the file is one clear line."""

import os
from collections.abc import Mapping
from functools import lru_cache
from logging import WARNING
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor

from mmvheat.checkpoint import read_checkpoint
from mmvheat.checkpoint.describe import arch_in_words
from mmvheat.checkpoint.fit import compare_weights
from mmvheat.checkpoint.formats import RESUMABLE_ENTRIES, metadata
from mmvheat.checkpoint.io.download import download, is_url
from mmvheat.engine.checkpoint_hook import name_patterns
from mmvheat.engine.distributed import is_first_process
from mmvheat.engine.stack_fixes import load_from_http, load_from_local
from mmvheat.engine.weights_fit import weights_of
from mmvheat.errors import UserError
from mmvheat.registry import MODELS

__all__ = ['check_initial_weights', 'find_resumable', 'read_resumable', 'read_weights']


def _read(path: str) -> dict[str, Any]:
    """Look at a checkpoint: the data of its tensors stay in the file until they are used."""
    if is_url(path):
        return load_from_http(path, mmap=True)
    if '://' in path:
        return CheckpointLoader.load_checkpoint(path, map_location='cpu')
    return load_from_local(path, mmap=True)


def read_weights(path: str) -> dict[str, Tensor]:
    """Look at the state dict that mmengine would load from a file or URL.

    Args:
        path: Path, URL or another name that mmengine takes.

    Returns:
        Keys and shapes: tensors on the meta device, without data.

    Raises:
        UserError: If the file is missing, damaged, unsafe or holds no tensors.
    """
    try:
        found = os.stat(download(path) if is_url(path) else os.path.expanduser(path))
    except OSError:
        return _read_weights(path)
    # The same file is looked at once, by the check of a config and by that of the model.
    return dict(_look(path, found.st_ino, found.st_size, found.st_mtime_ns))


@lru_cache(maxsize=8)
def _look(path: str, *version: int) -> dict[str, Tensor]:
    return _read_weights(path)


def _read_weights(path: str) -> dict[str, Tensor]:
    checkpoint = _read(path)
    weights = {name: tensor.to('meta') for name, tensor in weights_of(checkpoint).items()}
    if not weights:
        found = ', '.join(map(str, list(checkpoint)[:5])) or 'nothing'
        raise UserError(
            f'{path} has no state dict where mmengine looks for it (it holds {found}); '
            'give a checkpoint of mmengine, or a published one of vHeat'
        )
    return weights


def read_resumable(path: str) -> dict[str, Any]:
    """Read what a checkpoint that training saved says of itself, and check that it is whole.

    Returns:
        Its ``meta``, with ``epoch`` and ``iter``.

    Raises:
        UserError: If it is none, or damaged.
    """
    if '://' in path and not is_url(path):
        return _record(path, _read(path))
    file = download(path) if is_url(path) else Path(path).expanduser()
    meta = _record(path, read_checkpoint(file, mmap=True))
    if damage := _damage(file):
        raise UserError(damage)
    return meta


def _record(path: str, checkpoint: Mapping) -> dict[str, Any]:
    """Return ``meta`` of a checkpoint, in which training can find its place."""
    meta = metadata(checkpoint)
    lacking = [name for name in RESUMABLE_ENTRIES if name not in checkpoint]
    if not lacking:
        lacking = [f'meta[{name!r}]' for name in ('epoch', 'iter') if not _is_count(meta.get(name))]
    if lacking:
        raise UserError(
            f'{path} lacks {", ".join(lacking)}: --resume needs a checkpoint that training saved; '
            f'to start from these weights use --cfg-options load_from={path}'
        )
    return meta


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _damage(path: str | Path) -> str | None:
    """Say what is damaged in a file whose keys could be read, comparing its checksums."""
    try:
        # torch compares none; files from before 1.6 have none and have been read as a whole.
        damaged = ZipFile(path).testzip() if is_zipfile(path) else None
    except Exception as error:  # zipfile raises whatever a damaged file drives it into
        damaged = error
    if damaged is None:
        return None
    return f'{path} is damaged ({damaged}): copy it again or take another one'


def find_resumable(folder: str, filename_tmpl: str | None = None) -> tuple[str, dict] | None:
    """Find the checkpoint of a folder from which a run that saves there goes on.

    That is the furthest by its own record, iteration before epoch, whatever its name and age, of
    those that are whole. mmengine's pointer ``last_checkpoint`` does not count: it is an absolute
    path, in a copied folder to the original's files. Nor does a link that leads out of the folder.
    ``best_*`` files lack the optimizer. What is passed over although it looks like a checkpoint is
    named in the log.

    Args:
        folder: Where the run saves its checkpoints.
        filename_tmpl: That of the CheckpointHook, if it has one; names that end in ``.pth`` always
            count.

    Returns:
        The path and ``meta`` of the checkpoint, or None if there is none.
    """
    home = Path(folder)
    if not home.is_dir():
        return None
    names = name_patterns(filename_tmpl)
    found = {}
    for path in sorted({path for name in names for path in home.glob(name)}):
        if path.name.startswith('best_'):
            continue
        real = path.resolve()
        if real.parent != home.resolve():
            _warn(f'Not resumed: {path} is a link to {real}, outside of the folder.')
            continue
        if real in found:
            continue
        try:
            meta = _record(str(path), read_checkpoint(path, mmap=True))
        except UserError as error:
            _warn(f'Not resumed: {error}')
            continue
        place = (meta['iter'], meta['epoch'], path.stat().st_mtime_ns)
        found[real] = (place, str(path), meta)
    for _, path, meta in sorted(found.values(), key=lambda entry: entry[:2], reverse=True):
        if damage := _damage(path):
            _warn(f'Not resumed: {damage}')
            continue
        return path, meta
    return None


def _warn(message: str) -> None:
    if is_first_process():
        print_log(message, 'current', WARNING)


_BACKBONES = ('VHeat', 'MMDET_VHEAT', 'MMSEG_VHEAT')


def check_initial_weights(node: Any, path: Path) -> None:
    """Check ``init_cfg=dict(type='Pretrained', ...)`` and the published code's ``pretrained=``.

    Args:
        node: The config's model, or a part of it.
        path: The config's path, for the message.

    Raises:
        UserError: If a file does not exist, or is not for the vHeat that names it.
    """
    if isinstance(node, dict):
        kind = str(node.get('type')).rpartition('.')[2]
        published = kind in _BACKBONES[1:]
        init_cfg = node.get('init_cfg')
        checkpoint = init_cfg.get('checkpoint') if isinstance(init_cfg, dict) else None
        prefix = init_cfg.get('prefix') or '' if checkpoint else ''
        if published:
            # They ignore the init_cfg that they inherit from a Swin Transformer.
            checkpoint, prefix = node.get('pretrained'), ''
        if isinstance(checkpoint, str) and checkpoint:
            option = 'pretrained' if published else 'init_cfg.checkpoint'
            if '://' not in checkpoint and not Path(checkpoint).expanduser().is_file():
                raise UserError(
                    f'{path}: the pretrained weights {checkpoint} do not exist: make them with '
                    f'interpolate4downstream.py, or set another {option}'
                )
            if kind == 'VHeat':
                _check_backbone(node, checkpoint, prefix)
    children = node.values() if isinstance(node, dict) else node
    if isinstance(node, (dict, list, tuple)):
        for child in children:
            check_initial_weights(child, path)


def _check_backbone(node: Mapping, checkpoint: str, prefix: str) -> None:
    """Build the backbone without memory and hold the file to it, output norms aside."""
    weights = read_weights(checkpoint)
    prefix = prefix and prefix.rstrip('.') + '.'
    given = {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }
    config = {key: value for key, value in ConfigDict(node).items() if key != 'init_cfg'}
    with torch.device('meta'):
        expected = MODELS.build(dict(config, type='mmvheat.VHeat')).state_dict()
    fit = compare_weights(expected, given, ('outnorm',))
    if fit.keys():
        has, wants = arch_in_words(given), arch_in_words(expected)
        sides = f'the file has {has or "no vHeat"}, the config wants {wants}: ' * (has != wants)
        raise UserError(
            f'init_cfg.checkpoint={checkpoint} (prefix={prefix!r}) does not fit the backbone: '
            f'{sides}{fit.summary()}'
        )
