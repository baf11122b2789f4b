"""mmengine's FlexibleRunner, the one that takes a strategy, with checkpoints one can resume."""

from typing import Any

from mmengine.hooks import EMAHook
from mmengine.runner import FlexibleRunner as MMEngineFlexibleRunner

from mmvheat.errors import UserError
from mmvheat.registry import RUNNERS

from .checked_runner import CheckedRunner
from .fsdp import FSDPStrategy

__all__ = ['FlexibleRunner']


@RUNNERS.register_module()
class FlexibleRunner(CheckedRunner, MMEngineFlexibleRunner):
    """The Runner for ``strategy``: mmengine's, but ``save_best`` does not spoil the position.

    mmengine's checkpoint hook saves again after a validation that was the best so far. By then the
    loop has counted on, and mmengine's FlexibleRunner (not its Runner) notes one epoch or iteration
    too many, which a resumed training then leaves out.
    """

    _position: dict[str, int] = {}

    def build_strategy(
        self,
        strategy: Any = None,
        launcher: str = 'none',
        randomness: dict | None = None,
        env_cfg: dict | None = None,
        experiment_name: str | None = None,
        log_level: str | None = None,
    ) -> Any:
        """Build the strategy; mmengine's arguments, of which a config may lack ``env_cfg``."""
        env_cfg = env_cfg or dict(dist_cfg=dict(backend='nccl'))
        return super().build_strategy(
            strategy, launcher, randomness, env_cfg, experiment_name, log_level
        )

    def register_hooks(self, default_hooks: dict | None = None, custom_hooks: Any = None) -> None:
        """Register the hooks; one that needs the whole model is refused where it is sharded."""
        super().register_hooks(default_hooks, custom_hooks)
        averages = [type(hook).__name__ for hook in self.hooks if isinstance(hook, EMAHook)]
        if averages and isinstance(self.strategy, FSDPStrategy):
            raise UserError(
                f'custom_hooks has {averages[0]}, which copies the model, and FSDP has only shards '
                'of it in a process: leave it out (custom_hooks=[])'
            )

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        """Save a checkpoint; mmengine's arguments. ``epoch`` and ``iter`` of ``meta`` are kept."""
        meta = meta or {}
        self._position = {name: meta[name] for name in ('epoch', 'iter') if name in meta}
        super().save_checkpoint(
            out_dir,
            filename,
            file_client_args,
            save_optimizer,
            save_param_scheduler,
            meta,
            by_epoch,
            backend_args,
        )

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call all hooks; those before saving see the right position."""
        if fn_name == 'before_save_checkpoint':
            kwargs['checkpoint']['meta'].update(self._position)
        super().call_hook(fn_name, **kwargs)
