"""What our Runners have in common: safe checkpoints, and data that are looked at first."""

from typing import Any

from mmengine.runner import Runner as MMEngineRunner
from torch import nn

from .checkpoint_hook import SafeCheckpointHook
from .data_check import DATA_ERRORS, check_classes, check_samples, empty_data_errors
from .errors import config_errors
from .weights_fit_hook import WeightsFitHook

__all__ = ['CheckedRunner']


class CheckedRunner:
    """To be inherited before one of mmengine's Runners, whose arguments its methods take."""

    def register_hooks(self, default_hooks: dict | None = None, custom_hooks: Any = None) -> None:
        """Register the hooks, with the safe checkpoint hook in place of mmengine's."""
        default_hooks = dict(default_hooks or {})
        checkpoint = default_hooks.setdefault('checkpoint', dict(type='CheckpointHook', interval=1))
        if checkpoint and checkpoint.get('type') in ('CheckpointHook', 'mmengine.CheckpointHook'):
            default_hooks['checkpoint'] = dict(checkpoint, type=SafeCheckpointHook)
        super().register_hooks(default_hooks, custom_hooks)
        self.register_hook(WeightsFitHook())

    @staticmethod
    def build_dataloader(
        dataloader: Any, seed: int | None = None, diff_rank_seed: bool = False
    ) -> Any:
        """Build a loader as mmengine does; its samples must exist."""
        with empty_data_errors(dataloader.get('dataset') if isinstance(dataloader, dict) else None):
            loader = MMEngineRunner.build_dataloader(dataloader, seed, diff_rank_seed)
        check_samples(loader.dataset)
        return loader

    def build_train_loop(self, loop: Any) -> Any:
        """Build the training loop; data that are not there become one clear line."""
        with config_errors('train_dataloader', DATA_ERRORS):
            return self._checked(super().build_train_loop(loop), 'train_dataloader')

    def build_val_loop(self, loop: Any) -> Any:
        """Build the validation loop; data that are not there become one clear line."""
        with config_errors('val_dataloader', DATA_ERRORS):
            return self._checked(super().build_val_loop(loop), 'val_dataloader')

    def build_test_loop(self, loop: Any) -> Any:
        """Build the test loop; data that are not there become one clear line."""
        with config_errors('test_dataloader', DATA_ERRORS):
            return self._checked(super().build_test_loop(loop), 'test_dataloader')

    def _checked(self, loop: Any, where: str) -> Any:
        # A strategy builds the model after the loops.
        if isinstance(self.model, nn.Module):
            check_classes(self.model, loop.dataloader.dataset, where)
        return loop
