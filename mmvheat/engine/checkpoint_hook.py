"""Checkpoints that survive a kill at any moment."""

import glob
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.dist import all_reduce_params, is_distributed, is_main_process
from mmengine.hooks import CheckpointHook

from mmvheat.registry import HOOKS

__all__ = ['SafeCheckpointHook', 'name_patterns', 'whole_or_absent']

# Ending of a checkpoint's name while it is being written.
_PART = '.part'


def name_patterns(filename_tmpl: str | None = None) -> set[str]:
    """Give the glob patterns of the names that a CheckpointHook's checkpoints may have.

    Args:
        filename_tmpl: The hook's template, if it has its own; the default ones always count.
    """
    pieces = re.split(r'\{[^{}]*\}', filename_tmpl or '{}.pth')
    return {'*.pth', '*'.join(map(glob.escape, pieces))}


@contextmanager
def whole_or_absent(path: str) -> Iterator[str]:
    """Let a checkpoint appear under its name once all of it is on the disk.

    Args:
        path: Its name; one that is a URL is written directly.

    Yields:
        What the name of the file to be written ends with besides.
    """
    ending = '' if '://' in path else _PART
    yield ending
    if ending and is_main_process():
        with open(path + ending, 'rb+') as file:
            os.fsync(file.fileno())
        os.replace(path + ending, path)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, which never leaves a moment without a whole checkpoint.

    With ``max_keep_ckpts`` mmengine removes the oldest checkpoint before it writes the new one.
    Here it goes once the new one and its pointer are on disk. With several
    processes the buffers (statistics of BatchNorm) are averaged first, so that the file holds what
    validation uses; mmengine does so in epoch-based training only.

    Before it saves, all ranks call the hooks' ``before_checkpoint(runner)``, which may raise:
    nothing is written or removed then. What a killed run left half-written is removed at the start.
    """

    def before_train(self, runner: Any) -> None:
        """Find out where to save, and remove what a killed run left half-written there."""
        super().before_train(runner)
        if '://' in self.out_dir or not is_main_process():
            return
        for name in name_patterns(self.filename_tmpl):
            pattern = os.path.join(glob.escape(self.out_dir), f'*{name}{_PART}')
            for part in glob.glob(pattern):
                os.remove(part)
                runner.logger.info(f'Removed {part}, which a killed run left half-written.')

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        runner.call_hook('before_checkpoint')
        outdated = None
        if 0 < self.max_keep_ckpts == len(self.keep_ckpt_ids) and self.keep_ckpt_ids[-1] != step:
            outdated = self.keep_ckpt_ids.popleft()
        if is_distributed():
            all_reduce_params(runner.model.buffers(), op='mean')
        super()._save_checkpoint_with_step(runner, step, meta)
        if outdated is not None and is_main_process():
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(outdated))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        runner.call_hook('before_checkpoint')
        super()._save_best_checkpoint(runner, metrics)
