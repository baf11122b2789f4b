"""mmengine's Runner with checks before and during training, on a GPU or a CPU.

A run that is killed at any moment and resumed ends like an uninterrupted one, and what a user can
mend is one clear line. :class:`CheckedRunner` holds what :class:`Runner` and the FlexibleRunner of
:mod:`mmvheat.engine.fsdp` have in common.
"""

import os
import re
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import RUNNERS
from mmengine.runner import Runner as MMEngineRunner
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import IterableDataset

from mmvheat.checkpoint.names import OUTPUT_NORM, find
from mmvheat.errors import UserError, config_errors, first_names

from .checkpoint_hook import SafeCheckpointHook, whole_or_absent
from .dataset_fit import DATA_ERRORS, check_classes, check_samples, empty_data_errors
from .distributed import start_cpu_group, start_loader_worker, uses_cpu
from .finite_hook import FiniteHook
from .logger_hook import MainLoggerHook
from .pack_hook import PackHook
from .resume import ExactResumeHook, SeededLoader
from .weights_fit import WeightsFitHook

__all__ = ['CheckedRunner', 'Runner', 'build_runner']

# What DistributedDataParallel says of parameters that got no gradient.
_COMPLAINT = 'Expected to have finished reduction in the prior iteration'
_INDICES = re.compile(r'did not receive grad for rank \d+: ((?:\d+ ?)+)')
_MOST_NAMES = 4


def build_runner(cfg: Config, where: str) -> 'CheckedRunner':
    """Build the Runner that a config is for.

    Args:
        cfg: The config; one with ``runner_type`` names another Runner than ours.
        where: The config's path, for messages.

    Raises:
        UserError: If a setting is refused.
    """
    with config_errors(where):
        return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


class CheckedRunner:
    """To be inherited before one of mmengine's Runners, whose arguments its methods take."""

    def register_hooks(self, default_hooks: dict | None = None, custom_hooks: Any = None) -> None:
        """Register the hooks: mmengine's for checkpoints and logs replaced by ours, and others."""
        default_hooks = dict(default_hooks or {})
        default_hooks.setdefault('checkpoint', dict(type='CheckpointHook', interval=1))
        default_hooks.setdefault('logger', dict(type='LoggerHook'))
        for name, ours in (('checkpoint', SafeCheckpointHook), ('logger', MainLoggerHook)):
            config, replaced = default_hooks[name], ours.__base__.__name__
            if config and config.get('type') in (replaced, f'mmengine.{replaced}'):
                default_hooks[name] = dict(config, type=ours)
        super().register_hooks(default_hooks, custom_hooks)
        self.register_hook(WeightsFitHook())
        if not any(isinstance(hook, FiniteHook) for hook in self.hooks):
            self.register_hook(FiniteHook())
        self.register_hook(ExactResumeHook())
        self.register_hook(PackHook())

    def dump_config(self) -> None:
        """Write the config into the folder of the run, but over no file that says more.

        That is the config itself, if it lies there, and, while one tests, what a training left: a
        test has neither its data nor its schedule. What a run did is in its own ``vis_data``, too.
        """
        name = self.cfg.filename
        there = Path(self.work_dir, Path(name).name) if name else None
        if there is not None and there.exists():
            if self.cfg.get('train_cfg') is None or there.samefile(name):
                return
        super().dump_config()

    @staticmethod
    def build_dataloader(
        dataloader: Any, seed: int | None = None, diff_rank_seed: bool = False
    ) -> Any:
        """Build a loader as mmengine does; its samples must exist, its workers die with it."""
        with empty_data_errors(dataloader.get('dataset') if isinstance(dataloader, dict) else None):
            loader = MMEngineRunner.build_dataloader(dataloader, seed, diff_rank_seed)
        check_samples(loader.dataset)
        if isinstance(dataloader, dict):
            loader.worker_init_fn = partial(start_loader_worker, loader.worker_init_fn)
        return loader

    def build_train_loop(self, loop: Any) -> Any:
        """Build the training loop around a :class:`SeededLoader`.

        Data that are not there become one clear line.
        """
        with config_errors('train_dataloader', DATA_ERRORS):
            config, loader = self._train_dataloader, self._train_dataloader
            if isinstance(loader, dict):
                randomness = self._randomness_cfg
                loader = self.build_dataloader(
                    loader, self.seed, randomness.get('diff_rank_seed', False)
                )
                # Only a dataset with indices can be drawn from at any place.
                if not isinstance(loader.dataset, IterableDataset):
                    loader = SeededLoader(loader, self.seed, get_rank())
            self._train_dataloader = loader
            try:
                return self._checked(super().build_train_loop(loop), 'train_dataloader')
            finally:
                # scale_lr reads the batch size from the config.
                self._train_dataloader = config

    def build_val_loop(self, loop: Any) -> Any:
        """Build the validation loop; data that are not there become one clear line."""
        with config_errors('val_dataloader', DATA_ERRORS):
            return self._checked(super().build_val_loop(loop), 'val_dataloader')

    def build_test_loop(self, loop: Any) -> Any:
        """Build the test loop; data that are not there become one clear line."""
        with config_errors('test_dataloader', DATA_ERRORS):
            return self._checked(super().build_test_loop(loop), 'test_dataloader')

    def train(self) -> nn.Module:
        """Train.

        Raises:
            UserError: If images, losses or weights are not finite, or parameters got no gradient
                where DistributedDataParallel needs one.
        """
        try:
            return super().train()
        except UserError:
            raise
        except Exception as error:
            # What comes of spoiled numbers has many names: an assertion of CUDA, a failed matching.
            for hook in self.hooks:
                if isinstance(hook, FiniteHook):
                    hook.explain(error)
            _explain_unused_parameters(error, self.model)
            raise

    def _checked(self, loop: Any, where: str) -> Any:
        # A strategy builds the model after the loops.
        if isinstance(self.model, nn.Module):
            check_classes(self.model, loop.dataloader.dataset, where)
        return loop


class Runner(CheckedRunner, MMEngineRunner):
    """The Runner of ``tools/train.py`` and ``tools/test.py``.

    It takes mmengine's arguments. On a CPU it runs distributed jobs through gloo. A training run
    that is killed at any moment and resumed ends like an uninterrupted one.
    """

    def setup_env(self, env_cfg: dict) -> None:
        """Start the gloo group when there is no GPU; mmengine then starts none."""
        if self.distributed and uses_cpu():
            settings = env_cfg.get('dist_cfg', {})
            start_cpu_group(self.launcher, settings.get('timeout'), settings.get('port'))
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model; on a CPU without device ids and without SyncBatchNorm."""
        # Depthwise kernels on channels-last maps have gradients of another, equally good, layout.
        warnings.filterwarnings('ignore', message='Grad strides do not match bucket view strides')
        if self.distributed and uses_cpu():
            model = revert_sync_batchnorm(model)
            self.cfg.pop('sync_bn', None)
            model_wrapper_cfg = dict(
                model_wrapper_cfg
                or dict(
                    type='mmengine.MMDistributedDataParallel',
                    broadcast_buffers=False,
                    find_unused_parameters=self.cfg.get('find_unused_parameters', False),
                ),
                device_ids=None,
            )
        return super().wrap_model(model_wrapper_cfg, model)

    def _init_model_weights(self) -> None:
        """Initialize the weights; a file that does not fit becomes one clear line."""
        with config_errors('initial weights', (AssertionError,)):
            super()._init_model_weights()

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **settings: Any) -> None:
        """Save a checkpoint, whole or not at all; mmengine's arguments."""
        with whole_or_absent(os.path.join(out_dir, filename)) as ending:
            super().save_checkpoint(out_dir, filename + ending, *args, **settings)


def _explain_unused_parameters(error: Exception, model: nn.Module) -> None:
    """Raise a clear error if ``error`` is DistributedDataParallel's about unused parameters.

    Args:
        error: What stopped a training.
        model: The model in its distributed wrapper.

    Raises:
        UserError: With the names of the parameters and what to do about them.
    """
    if _COMPLAINT not in str(error) or not isinstance(model, DistributedDataParallel):
        return
    # The reducer counts the parameters that learn, in this order.
    names = [name for name, value in model.module.named_parameters() if value.requires_grad]
    found = _INDICES.search(str(error))
    unused = [names[int(index)] for index in found[1].split()] if found else []
    shown = first_names(unused, _MOST_NAMES) or 'some parameters'
    advice = 'set find_unused_parameters=True in the config, which costs a little time'
    maps = sorted({norm[1] for name in unused if (norm := find(OUTPUT_NORM, name))})
    if maps:
        advice = (
            f'no neck or head uses map {", ".join(maps)} of the backbone: leave it out of '
            'model.backbone.out_indices and fit model.neck (for RetinaNet, ATSS, FCOS '
            'out_indices=(1, 2, 3) with start_level=0 and in_channels without the first), or '
            f'{advice}'
        )
    raise UserError(
        f'{shown} got no gradient in the first iteration, for which DistributedDataParallel waits: '
        f'{advice}'
    ) from error
