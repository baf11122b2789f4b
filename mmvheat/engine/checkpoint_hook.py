"""Checkpoints that survive a kill at any moment."""

from typing import Any

from mmengine.dist import all_reduce_params, is_distributed, is_main_process
from mmengine.hooks import CheckpointHook

from mmvheat.registry import HOOKS

__all__ = ['SafeCheckpointHook']


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, which never leaves a moment without a whole checkpoint.

    With ``max_keep_ckpts`` mmengine removes the oldest checkpoint before it writes the new one.
    Here it goes once the new one and its pointer are on disk. With several
    processes the buffers (statistics of BatchNorm) are averaged first, so that the file holds what
    validation uses; mmengine does so in epoch-based training only.
    """

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
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
