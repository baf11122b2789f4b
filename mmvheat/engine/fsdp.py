"""Fully sharded data parallel training (FSDP), on GPUs or a CPU: the strategy and its Runner."""

from dataclasses import replace
from typing import Any

import torch
from mmengine._strategy import FSDPStrategy as MMEngineFSDPStrategy
from mmengine.dist import barrier
from mmengine.hooks import EMAHook
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import BaseOptimWrapper
from mmengine.runner import FlexibleRunner as MMEngineFlexibleRunner
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from mmvheat.errors import UserError
from mmvheat.layers import HeatBlock
from mmvheat.registry import FUNCTIONS, RUNNERS, STRATEGIES

from .checkpoint_hook import whole_or_absent
from .distributed import start_cpu_group, uses_cpu
from .runner import CheckedRunner

__all__ = ['FSDPStrategy', 'FlexibleRunner', 'wrap_heat_blocks']


@FUNCTIONS.register_module()
def wrap_heat_blocks(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """Shard every :class:`HeatBlock` by itself: an ``auto_wrap_policy`` of FSDP.

    A stage cannot be a unit: the backbone calls its downsampling after its forward pass.
    """
    return transformer_auto_wrap_policy(module, recurse, nonwrapped_numel, {HeatBlock})


@STRATEGIES.register_module()
class FSDPStrategy(MMEngineFSDPStrategy):
    """mmengine's FSDPStrategy for vHeat: it also runs on a CPU and resumes on today's torch.

    - Blocks of vHeat are sharded one by one unless ``model_wrapper`` has an ``auto_wrap_policy``.
    - Checkpoints are whole files, as those of an ordinary training, and written atomically.
    - ``paramwise_cfg`` sees the parameters' own shapes, so that ``flat_decay_mult`` means vectors
      and not every shard.
    - ``clip_grad`` clips by the norm over all processes, not by that of each one's shards.
    - Without a GPU the processes use gloo, and SyncBatchNorm becomes BatchNorm.

    Args:
        model_wrapper: Arguments of ``mmengine.MMFullyShardedDataParallel``.
        skip_init_weights: Leave the weights to a checkpoint.
        state_dict_cfg: ``'full'`` (one file) or what else mmengine's strategy takes; the tools
            resume only from ``'full'``.
        activation_checkpointing: As in mmengine's strategy; vHeat's ``with_cp`` does the same.
        work_dir: Folder of checkpoints and logs.
        experiment_name: Name of the run; a time stamp if None.
        env_kwargs: Settings of the environment.
        log_kwargs: Settings of the logger.
        auto_scale_lr: ``dict(enable, base_batch_size)``.

    Raises:
        UserError: If there is no launcher, hence no group to shard over.
    """

    def __init__(
        self,
        *,
        model_wrapper: dict | None = None,
        skip_init_weights: bool = False,
        state_dict_cfg: str | dict = 'full',
        activation_checkpointing: dict | None = None,
        work_dir: str = 'work_dirs',
        experiment_name: str | None = None,
        env_kwargs: dict | None = None,
        log_kwargs: dict | None = None,
        auto_scale_lr: dict | None = None,
    ) -> None:
        if (env_kwargs or {}).get('launcher') == 'none':
            raise UserError(
                'FSDP shards over processes and there is no launcher: start with '
                'tools/dist_train.sh CONFIG GPUS'
            )
        super().__init__(
            model_wrapper={'auto_wrap_policy': wrap_heat_blocks, **(model_wrapper or {})},
            skip_init_weights=skip_init_weights,
            state_dict_cfg=state_dict_cfg,
            activation_checkpointing=activation_checkpointing,
            work_dir=work_dir,
            experiment_name=experiment_name,
            env_kwargs=env_kwargs,
            log_kwargs=log_kwargs,
            auto_scale_lr=auto_scale_lr,
        )
        if uses_cpu():
            # FSDP reuses what it gathers into, and offloading to where that is copies nothing.
            self.state_dict_config = replace(self.state_dict_config, offload_to_cpu=False)
            self.optim_state_dict_config = replace(
                self.optim_state_dict_config, offload_to_cpu=False
            )

    def _setup_distributed(
        self, launcher: str = 'pytorch', backend: str = 'nccl', **settings: Any
    ) -> None:
        """Start the processes' group; gloo without a GPU."""
        if uses_cpu():
            start_cpu_group(launcher, settings.get('timeout'), settings.get('port'))
        else:
            super()._setup_distributed(launcher, backend, **settings)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        """Shard the model; the shapes of its whole weights are noted before."""
        self.weight_shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        if uses_cpu():
            model = revert_sync_batchnorm(model)
            self.model_wrapper = dict(self.model_wrapper, device_id=torch.device('cpu'))
        return super()._wrap_model(model)

    def build_optim_wrapper(
        self, optim_wrapper: Any, model: nn.Module | None = None
    ) -> BaseOptimWrapper:
        """Build the optimizer while all parameters are gathered, with their own shapes."""
        with FullyShardedDataParallel.summon_full_params(model, writeback=False):
            wrapper = super().build_optim_wrapper(optim_wrapper, model)
        if getattr(wrapper, 'clip_func', None) is nn.utils.clip_grad_norm_:
            # The norm of all shards, where torch's function sees those of this process.
            wrapper.clip_func = lambda params, **settings: model.clip_grad_norm_(**settings)
        return wrapper

    def save_checkpoint(self, filename: str, **settings: Any) -> None:
        """Save a checkpoint, a file whole or not at all; mmengine's arguments."""
        if self._is_full_state_dict():
            with whole_or_absent(filename) as ending:
                super().save_checkpoint(filename + ending, **settings)
        else:
            super().save_checkpoint(filename, **settings)
        barrier()

    def optim_state_dict(self) -> dict:
        """Gather the optimizer's state, with what its wrapper adds (the loss scale, for one)."""
        whole = super().optim_state_dict()
        return {**self.optim_wrapper.state_dict(), **whole} if whole else whole

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the optimizer's state; torch 2.1 changed the order of the arguments."""
        shard = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=state_dict
        )
        self.optim_wrapper.load_state_dict({**state_dict, **shard})


@RUNNERS.register_module()
class FlexibleRunner(CheckedRunner, MMEngineFlexibleRunner):
    """The Runner for ``strategy``: mmengine's, but ``save_best`` does not spoil the position.

    mmengine's checkpoint hook saves again after a validation that was the best so far. By then the
    loop has counted on, and mmengine's FlexibleRunner (not its Runner) notes one epoch or iteration
    too many, which a resumed training then leaves out.
    """

    _position: dict[str, int] = {}

    def build_strategy(self, *args: Any, env_cfg: dict | None = None, **settings: Any) -> Any:
        """Build the strategy; mmengine's arguments, of which a config may lack ``env_cfg``."""
        env_cfg = env_cfg or dict(dist_cfg=dict(backend='nccl'))
        return super().build_strategy(*args, env_cfg=env_cfg, **settings)

    def register_hooks(self, default_hooks: dict | None = None, custom_hooks: Any = None) -> None:
        """Register the hooks; one that needs the whole model is refused where it is sharded."""
        super().register_hooks(default_hooks, custom_hooks)
        averages = [type(hook).__name__ for hook in self.hooks if isinstance(hook, EMAHook)]
        if averages and isinstance(self.strategy, FSDPStrategy):
            raise UserError(
                f'custom_hooks has {averages[0]}, which copies the model, and FSDP has only shards '
                'of it in a process: leave it out (custom_hooks=[])'
            )

    def save_checkpoint(self, *args: Any, meta: dict | None = None, **settings: Any) -> None:
        """Save a checkpoint; mmengine's arguments. ``epoch`` and ``iter`` of ``meta`` are kept."""
        meta = meta or {}
        self._position = {name: meta[name] for name in ('epoch', 'iter') if name in meta}
        super().save_checkpoint(*args, meta=meta, **settings)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call all hooks; those before saving see the right position."""
        if fn_name == 'before_save_checkpoint':
            kwargs['checkpoint']['meta'].update(self._position)
        super().call_hook(fn_name, **kwargs)
