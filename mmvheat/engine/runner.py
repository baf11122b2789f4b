"""mmengine's Runner, on a GPU or a CPU, with checkpoints that a kill cannot break."""

import os
import warnings

from mmengine.dist import get_rank
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner as MMEngineRunner
from torch import nn

from .checked_runner import CheckedRunner
from .checkpoint_hook import PART, publish_part
from .errors import config_errors
from .process_group import start_cpu_group, uses_cpu

__all__ = ['Runner']


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
        """Save under another name and rename, so that the file is whole or absent.

        mmengine's arguments. A directory that is a URL gets the file directly.
        """
        direct = '://' in out_dir or get_rank() != 0
        super().save_checkpoint(
            out_dir,
            filename if direct else f'{filename}{PART}',
            file_client_args,
            save_optimizer,
            save_param_scheduler,
            meta,
            by_epoch,
            backend_args,
        )
        if not direct:
            publish_part(os.path.join(out_dir, filename))
