"""Makes a resumed run end like an uninterrupted one."""

from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook

from mmvheat.registry import HOOKS

from .randomness import derive_seed, seed_generators
from .seeded_loader import SeededLoader, endless_batches

__all__ = ['ExactResumeHook']


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Restores what mmengine's resume leaves out.

    - Random numbers of a training step (drop path, dropout, mixup, RoI sampling) depend on the
      seed, the iteration and the rank alone. Each rank has its own: what the libraries want equal
      on all ranks in a step (mmdet's BatchSyncRandomResize, MoCo's shuffled batches) they
      broadcast from rank 0.
    - Data continue at the batch where training stopped, without reading those before it.
    - A validation that was due at the checkpoint, and may have been cut off, is run (again).

    It needs the training loader to be a :class:`SeededLoader`, as
    :class:`mmvheat.engine.checked_runner.CheckedRunner` makes it.
    """

    # Last of all hooks: nothing may draw between the seeding and the training step.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._saved_batches_per_epoch: int | None = None

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Note the length of an epoch, without which an iteration has no place in one."""
        meta = checkpoint['meta'] = checkpoint.get('meta') or {}
        meta['batches_per_epoch'] = len(runner.train_loop.dataloader)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Remember that length."""
        meta = checkpoint.get('meta') or {}
        self._saved_batches_per_epoch = meta.get('batches_per_epoch')

    def before_train(self, runner: Any) -> None:
        """Set the data to the place of the checkpoint and make up for a validation cut off."""
        loop = runner.train_loop
        by_epoch = not hasattr(loop, 'dataloader_iterator')
        in_epoch = loop.iter - loop.epoch * len(loop.dataloader) if by_epoch else 0
        if isinstance(loop.dataloader, SeededLoader):
            if not by_epoch:
                loop.dataloader_iterator = endless_batches(loop.dataloader, loop.iter)
            elif in_epoch and self._saved_batches_per_epoch == len(loop.dataloader):
                loop.dataloader.skip(in_epoch)
        if loop.iter > 0 and in_epoch == 0 and self._validation_is_due(runner, by_epoch):
            runner.logger.info('Validating the resumed checkpoint, in case that was cut off.')
            runner.val_loop.run()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the random numbers that this rank draws in this step."""
        seed_generators(derive_seed(runner.seed, runner.iter, get_rank()))

    @staticmethod
    def _validation_is_due(runner: Any, by_epoch: bool) -> bool:
        if runner.val_loop is None:
            return False
        loop = runner.train_loop
        loop._decide_current_val_interval()
        done, last = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
        return done >= loop.val_begin and (done % loop.val_interval == 0 or done == last)
