"""The metrics of a test, written by one process."""

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import LoggerHook

from mmvheat.registry import HOOKS

__all__ = ['MainLoggerHook']


@HOOKS.register_module()
class MainLoggerHook(LoggerHook):
    """mmengine's LoggerHook, of which the main process alone writes the metrics of a test.

    mmengine lets all processes write the same file at once, which sometimes leaves no JSON.
    """

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Log the metrics and write their file."""
        if is_main_process():
            super().after_test_epoch(runner, metrics)
