"""The preflight: open the checkpoints that a command names, and say whether they fit.

Nothing else opens a checkpoint before a run. :func:`open_checkpoint` reads names, shapes and what
the file says of itself. The :class:`Checkpoint` that it gives answers the rest without the file:
whether training can resume there, and, once the model is built, whether it fits.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from logging import WARNING
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmvheat.checkpoint.describe import arch_in_words
from mmvheat.checkpoint.fit import compare_weights
from mmvheat.checkpoint.formats import RESUMABLE_ENTRIES, metadata
from mmvheat.checkpoint.io.download import is_url, local_file
from mmvheat.engine.checkpoint_hook import name_patterns
from mmvheat.engine.stack_fixes import load_from_http, load_from_local
from mmvheat.engine.weights_fit import check_start, check_weights_fit, weights_of
from mmvheat.errors import UserError, is_first_process
from mmvheat.registry import MODELS

__all__ = ['Checkpoint', 'check_initial_weights', 'find_resumable', 'open_checkpoint']

# The published code's names of its backbones for detection and segmentation.
_PUBLISHED_BACKBONES = ('MMDET_VHEAT', 'MMSEG_VHEAT')


@dataclass(frozen=True)
class Checkpoint:
    """What is known of a checkpoint once it was opened; no data of its tensors.

    Attributes:
        path: Path, URL or another name that mmengine takes, as the user gave it.
        entries: Names of what it holds.
        weights: The state dict that mmengine would load: tensors on the meta device.
        meta: What training noted in it; empty if there is nothing.
    """

    path: str
    entries: tuple[str, ...]
    weights: dict[str, Tensor]
    meta: dict[str, Any]

    def check_weights(self) -> None:
        """Check that there are weights where mmengine looks for them.

        Raises:
            UserError: If there are none.
        """
        if not self.weights:
            raise UserError(
                f'{self.path} has no state dict where mmengine looks for it (it holds '
                f'{", ".join(self.entries[:5]) or "nothing"}); '
                'give a checkpoint of mmengine, or a published one of vHeat'
            )

    def check_fit(self, model: nn.Module | Mapping, exact: bool) -> None:
        """Check that the weights fit what the Runner built.

        Args:
            model: The model. What is none is left to the hook that checks when the file is loaded:
                a strategy builds its model later.
            exact: Whether every key must fit, as for a test or to resume. To start a training the
                backbone must be the same, and heads may differ.

        Raises:
            UserError: If they do not fit.
        """
        if isinstance(model, nn.Module):
            self.check_weights()
            (check_weights_fit if exact else check_start)(model, self.weights, self.path)

    def check_resumable(self) -> None:
        """Check that training can find its place in it.

        Raises:
            UserError: If it holds weights alone, or does not say after which iteration.
        """
        lacking = [name for name in RESUMABLE_ENTRIES if name not in self.entries]
        if not lacking:
            lacking = [
                f'meta[{name!r}]'
                for name in ('epoch', 'iter')
                if not _is_count(self.meta.get(name))
            ]
        if lacking:
            raise UserError(
                f'{self.path} lacks {", ".join(lacking)}: --resume needs a checkpoint that '
                'training saved; to start from these weights use '
                f'--cfg-options load_from={self.path}'
            )

    def check_data(self) -> None:
        """Compare the data of all tensors with the checksums of the file, which torch does not.

        Files from before torch 1.6 have none and have been read as a whole.

        Raises:
            UserError: If they differ.
        """
        if '://' in self.path and not is_url(self.path):
            return
        file = local_file(os.path.expanduser(self.path))
        try:
            damaged = ZipFile(file).testzip() if is_zipfile(file) else None
        except Exception as error:  # A damaged file makes zipfile raise anything.
            damaged = error
        if damaged is not None:
            raise UserError(f'{file} is damaged ({damaged}): copy it again or take another one')


def open_checkpoint(path: str) -> Checkpoint:
    """Open a checkpoint; the data of its tensors stay in the file.

    Args:
        path: Path, URL (downloaded unless it was before) or another name that mmengine takes.

    Raises:
        UserError: If the file is missing, damaged or unsafe.
    """
    if is_url(path):
        content = load_from_http(path, mmap=True)
    elif '://' in path:
        content = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    else:
        content = load_from_local(path, mmap=True)
    return Checkpoint(
        path=path,
        entries=tuple(map(str, content)),
        weights={name: tensor.to('meta') for name, tensor in weights_of(content).items()},
        meta=metadata(content),
    )


def find_resumable(folder: str, filename_tmpl: str | None = None) -> Checkpoint | None:
    """Find the checkpoint of a folder from which a run that saves there goes on.

    That is the furthest by its own record, iteration before epoch, whatever its name and age, of
    those that are whole. mmengine's pointer ``last_checkpoint`` does not count: it is an absolute
    path, in a copied folder to the original's files. Nor does a link that leads out of the folder.
    ``best_*`` files lack the optimizer. Whatever else looks like a checkpoint and is passed over is
    named in the log.

    Args:
        folder: Where the run saves its checkpoints.
        filename_tmpl: That of the CheckpointHook, if it has one; names that end in ``.pth`` always
            count.

    Returns:
        The checkpoint, or None if there is none.
    """
    home = Path(folder)
    found: dict[Path, tuple[tuple[int, ...], Checkpoint]] = {}
    for path in sorted({path for name in name_patterns(filename_tmpl) for path in home.glob(name)}):
        if path.name.startswith('best_'):
            continue
        real = path.resolve()
        if real.parent != home.resolve():
            _pass_over(f'{path} is a link to {real}, outside of the folder.')
        elif real not in found:
            try:
                checkpoint = open_checkpoint(str(path))
                checkpoint.check_resumable()
            except UserError as error:
                _pass_over(error)
                continue
            meta = checkpoint.meta
            found[real] = (meta['iter'], meta['epoch'], path.stat().st_mtime_ns), checkpoint
    for _, checkpoint in sorted(found.values(), key=lambda entry: entry[0], reverse=True):
        try:
            checkpoint.check_data()
        except UserError as error:
            _pass_over(error)
            continue
        return checkpoint
    return None


def check_initial_weights(
    model: Mapping, config: str, opener: Callable[[str], Checkpoint] = open_checkpoint
) -> None:
    """Check ``init_cfg=dict(type='Pretrained', ...)`` and the published code's ``pretrained=``.

    Args:
        model: The config's model.
        config: The config's path, for the message.
        opener: Opens a checkpoint.

    Raises:
        UserError: If a file does not exist, or is not for the vHeat that names it.
    """
    for module in _modules(model):
        kind = str(module.get('type')).rpartition('.')[2]
        if kind in _PUBLISHED_BACKBONES:
            # They ignore the init_cfg that they inherit from a Swin Transformer.
            option, path, prefix = 'pretrained', module.get('pretrained'), ''
        else:
            init_cfg = module.get('init_cfg')
            init_cfg = init_cfg if isinstance(init_cfg, dict) else {}
            option, path = 'init_cfg.checkpoint', init_cfg.get('checkpoint')
            prefix = init_cfg.get('prefix') or ''
        if not isinstance(path, str) or not path:
            continue
        if '://' not in path and not Path(path).expanduser().is_file():
            raise UserError(
                f'{config}: the pretrained weights {path} do not exist: make them with '
                f'interpolate4downstream.py, or set another {option}'
            )
        if kind == 'VHeat':
            _check_backbone(module, opener(path), prefix)


def _check_backbone(module: Mapping, checkpoint: Checkpoint, prefix: str) -> None:
    """Build the backbone without memory and compare it with the file, output norms aside."""
    checkpoint.check_weights()
    start = prefix and prefix.rstrip('.') + '.'
    given = {
        name.removeprefix(start): tensor
        for name, tensor in checkpoint.weights.items()
        if name.startswith(start)
    }
    config = {key: value for key, value in ConfigDict(module).items() if key != 'init_cfg'}
    with torch.device('meta'):
        expected = MODELS.build(dict(config, type='mmvheat.VHeat')).state_dict()
    fit = compare_weights(expected, given, ('outnorm',))
    if fit.keys():
        has, wants = arch_in_words(given), arch_in_words(expected)
        sides = f'the file has {has or "no vHeat"}, the config wants {wants}: ' * (has != wants)
        raise UserError(
            f'init_cfg.checkpoint={checkpoint.path} (prefix={start!r}) does not fit the backbone: '
            f'{sides}{fit.summary()}'
        )


def _modules(node: Any) -> Iterator[Mapping]:
    """Go through all dicts of a config, each before what it holds."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list | tuple):
        for child in node:
            yield from _modules(child)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _pass_over(reason: object) -> None:
    if is_first_process():
        print_log(f'Not resumed: {reason}', 'current', WARNING)
