"""Compile the backbone before a run: ``--compile`` of the tools."""

import os
import shutil

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import nn

from mmvheat.errors import UserError
from mmvheat.models import VHeat
from mmvheat.ops.dispatch import is_compiled, mark_batch_dynamic
from mmvheat.registry import HOOKS

from .distributed import uses_cpu

__all__ = ['CompileBackboneHook', 'use_compile']


@HOOKS.register_module()
class CompileBackboneHook(Hook):
    """Compile every vHeat of the model in place with ``torch.compile``.

    Names of parameters stay, and copies such as an EMA's are not compiled. Heads and losses stay
    as they are: detectors' cannot be compiled whole. A changing batch size costs no second
    compilation. In testing a second image size costs one, after which all sizes are dynamic; in
    training each size costs one, for inductor (torch 2.11) fails on dynamic maps there.

    Args:
        backend: Backend of ``torch.compile``.

    Raises:
        UserError: Before the run, if the model has no vHeat.
    """

    # After what may wrap or load the model, before what times it.
    priority = 'LOW'

    def __init__(self, backend: str = 'inductor') -> None:
        self.backend = backend

    def before_train(self, runner: Runner) -> None:
        """Compile before training."""
        self._compile(runner, dynamic=False)

    def before_val(self, runner: Runner) -> None:
        """Compile before a validation that no training precedes."""
        self._compile(runner)

    def before_test(self, runner: Runner) -> None:
        """Compile before testing."""
        self._compile(runner)

    def _compile(self, runner: Runner, dynamic: bool | None = None) -> None:
        backbones = [module for module in runner.model.modules() if isinstance(module, VHeat)]
        if not backbones:
            raise UserError('--compile compiles vHeat backbones, but the model has none')
        for backbone in backbones:
            if not is_compiled(backbone):
                backbone.compile(backend=self.backend, dynamic=dynamic)
                print_log(f'Compile the backbone with {self.backend}', logger='current')
        for module in runner.model.modules():
            preprocessor = getattr(module, 'data_preprocessor', None)
            if isinstance(preprocessor, nn.Module) and _mark_batch not in (
                preprocessor._forward_hooks.values()
            ):
                preprocessor.register_forward_hook(_mark_batch)


def use_compile(cfg: Config, backend: str) -> None:
    """Let a run compile its backbone.

    Args:
        cfg: The config of the run; gets one hook more.
        backend: Backend of ``torch.compile``.

    Raises:
        UserError: If there is no such backend, or on a CPU no C++ compiler.
    """
    backends = torch.compiler.list_backends(exclude_tags=())
    if backend not in backends:
        raise UserError(
            f'--compile takes a backend of torch.compile ({", ".join(backends)}), got {backend!r}'
        )
    if backend == 'inductor' and uses_cpu() and not _has_compiler():
        raise UserError('--compile needs a C++ compiler on a CPU: install g++, or name one in CXX')
    hook = dict(type='mmvheat.CompileBackboneHook', backend=backend)
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]


def _mark_batch(module: nn.Module, args: tuple, data: dict) -> None:
    """Tell the compiler that the number of images changes."""
    images = data.get('inputs') if isinstance(data, dict) else None
    if isinstance(images, torch.Tensor) and images.dim() == 4 and images.size(0) > 1:
        mark_batch_dynamic(images)


def _has_compiler() -> bool:
    names = (os.environ.get('CXX'), 'g++', 'clang++')
    return any(shutil.which(name) for name in names if name)
