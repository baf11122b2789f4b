"""Packs the weights of a vHeat backbone while a model is tested on a CPU."""

from typing import Any

from mmengine.hooks import Hook
from torch import nn

from mmvheat.models import VHeat
from mmvheat.registry import HOOKS

__all__ = ['PackHook']


@HOOKS.register_module()
class PackHook(Hook):
    """Tests with packed weights, see :meth:`mmvheat.models.VHeat.pack`, and unpacks them after it.

    It is for the test loop alone: a validation between two epochs would pack for few images.
    """

    # After the hook that puts averaged weights in the place of the trained ones.
    priority = 'VERY_LOW'

    def before_test_epoch(self, runner: Any) -> None:
        """Ask every vHeat backbone of the model for it; on a GPU that changes nothing."""
        _pack(runner.model, wanted=True)

    def after_test_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        """Free the memory."""
        _pack(runner.model, wanted=False)


def _pack(model: nn.Module, wanted: bool) -> None:
    for module in model.modules():
        if isinstance(module, VHeat):
            module.pack(wanted)
