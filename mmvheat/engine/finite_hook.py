"""Stops a training whose images, losses or weights are not finite any more."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, get_world_size
from mmengine.hooks import Hook
from torch import Tensor, nn

from mmvheat.checkpoint.names import unwrapped_name
from mmvheat.errors import UserError, first_names
from mmvheat.registry import HOOKS

from .distributed import unwrapped

__all__ = ['FiniteHook']

_MOST_NAMES = 4
_ADVICE = (
    'lower the learning rate (optim_wrapper.optimizer.lr), clip the gradients '
    '(optim_wrapper.clip_grad=dict(max_norm=1.0)) or train without --amp, and go on with --resume '
    'from the last checkpoint, which is from before that'
)


@HOOKS.register_module()
class FiniteHook(Hook):
    """Stops a training at the first NaN or inf, on all ranks, with one line that says where it was.

    It looks at the images behind the data preprocessor, at the losses, and, before a checkpoint is
    written, at the weights, so that no checkpoint holds spoiled ones. Gradients it leaves alone:
    those that overflow are what a loss scale is adapted by.

    On a CPU every iteration is looked at when it happens, the images before the model sees them. On
    a GPU the first bad iteration is noted on the device and read from there every ``interval``
    iterations, before each validation and checkpoint, and at the end, so that no iteration waits.

    Args:
        interval: Iterations between two looks where tensors are on a GPU.

    Raises:
        UserError: From the hook's methods, on all ranks, if something is not finite.
    """

    # Before the hooks that log, average or save what is spoiled.
    priority = 'HIGHEST'

    def __init__(self, interval: int = 20) -> None:
        self.interval = interval
        self._runner: Any = None
        self._iteration: int | None = None
        # Iteration (from 1; 0 for none), bad values, bad images, images.
        self._images: Tensor | None = None
        # By the names of the losses: iteration (from 1; 0 for none), then the losses.
        self._losses: dict[tuple[str, ...], Tensor] = {}

    def before_train(self, runner: Any) -> None:
        """Look at what the data preprocessor returns from now on."""
        self._runner = runner
        preprocessor = getattr(unwrapped(runner.model), 'data_preprocessor', None)
        if isinstance(preprocessor, nn.Module):
            preprocessor.register_forward_hook(self._note_images)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Note the iteration, counted from 1 as in the log."""
        self._iteration = runner.iter + 1

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Note the losses, and look."""
        named = _losses(outputs)
        if named:
            self._note_losses(tuple(named), list(named.values()))
        if self._iteration % self._every() == 0:
            self._stop_if_noted()
        self._iteration = None

    def before_val(self, runner: Any) -> None:
        """Look before time is spent on spoiled weights."""
        if self._runner is not None:
            self._stop_if_noted()

    def before_checkpoint(self, runner: Any) -> None:
        """Look at the losses up to here and at the weights; called on all ranks before saving."""
        if self._runner is None:
            return
        self._stop_if_noted()
        self._stop(self._spoiled_weights())

    def after_train(self, runner: Any) -> None:
        """Look at the last iterations."""
        self._stop_if_noted()

    def explain(self, error: Exception) -> None:
        """Say what was noted on this rank before ``error`` stopped the training.

        Raises:
            UserError: If something was.
        """
        message = None
        with suppress(RuntimeError):  # A GPU that has failed tells nothing any more.
            message = self._noted()
        if message:
            raise UserError(message) from error

    def _every(self) -> int:
        """Give the iterations from one look to the next."""
        records = [*self._losses.values(), *([] if self._images is None else [self._images])]
        return 1 if all(record.device.type == 'cpu' for record in records) else self.interval

    @torch.no_grad()
    def _note_images(self, module: nn.Module, args: tuple, output: Any) -> None:
        if self._iteration is None:  # validation
            return
        batches = list(_images(output.get('inputs') if isinstance(output, Mapping) else output))
        if not batches:
            return
        counts = [(~batch.isfinite()).flatten(1).sum(1) for batch in batches]
        counts = torch.cat([count.to(counts[0].device) for count in counts])
        found = torch.stack([counts.sum(), (counts > 0).sum()])
        numbers = torch.tensor([self._iteration, len(counts)]).to(found.device, non_blocking=True)
        record = torch.cat([numbers[:1] * (found[:1] > 0), found, numbers[1:]])
        old = record if self._images is None else self._images
        self._images = torch.where(old[0] > 0, old, record)
        if self._every() == 1:
            self._stop_if_noted()

    @torch.no_grad()
    def _note_losses(self, names: tuple[str, ...], losses: Sequence[Tensor]) -> None:
        device = losses[0].device
        values = torch.stack([loss.detach().to(device).double().reshape(()) for loss in losses])
        record = torch.cat([(~values.isfinite()).any().reshape(1) * float(self._iteration), values])
        old = self._losses.get(names, record)
        self._losses[names] = torch.where(old[0] > 0, old, record)

    def _noted(self) -> str | None:
        """Put into words what was noted on this rank."""
        if self._images is not None:
            iteration, values, bad, images = self._images.tolist()
            if iteration:
                return (
                    f'training stops at {self._place(iteration)}: {bad} of the {images} images of '
                    f'a batch hold NaN or inf ({values} values) behind model.data_preprocessor: '
                    'check the image files, the pipeline, and that no std of the data_preprocessor '
                    'is 0; --resume goes on from the last checkpoint'
                )
        for names, record in self._losses.items():
            iteration, *values = record.tolist()
            if iteration:
                bad = {
                    name: value
                    for name, value in zip(names, values, strict=True)
                    if not torch.tensor(value).isfinite()
                }
                # The sum says nothing beside its parts.
                parts = {name: value for name, value in bad.items() if name != 'loss'} or bad
                shown = ', '.join(f'{name} is {value}' for name, value in parts.items())
                return f'training stops at {self._place(int(iteration))}: {shown}: {_ADVICE}'
        return None

    def _place(self, iteration: int) -> str:
        loop = self._runner.train_loop
        if hasattr(loop, 'dataloader_iterator'):
            return f'iteration {iteration}'
        return f'iteration {iteration} (epoch {(iteration - 1) // len(loop.dataloader) + 1})'

    @torch.no_grad()
    def _spoiled_weights(self) -> str | None:
        named = [
            (unwrapped_name(name), value)
            for name, value in self._runner.model.named_parameters()
            if value.requires_grad
        ]
        if not named:
            return None
        finite = torch.stack([value.isfinite().all().to(named[0][1].device) for _, value in named])
        spoiled = [name for (name, _), good in zip(named, finite.tolist(), strict=True) if not good]
        if not spoiled:
            return None
        shown = first_names(spoiled, _MOST_NAMES)
        iteration = self._iteration or self._runner.iter
        return (
            f'training stops after {self._place(iteration)}: the weights hold NaN or inf ({shown}) '
            f'and no loss did so far, so a gradient was not finite: {_ADVICE}'
        )

    def _stop_if_noted(self) -> None:
        self._stop(self._noted())

    def _stop(self, message: str | None) -> None:
        """Stop all ranks if one of them has something to say."""
        if get_world_size() > 1:
            flag = torch.tensor(int(message is not None))
            all_reduce(flag, op='max')
            if not flag:
                return
            messages = all_gather_object(message)
            message = next(text for text in messages if text is not None)
        if message is not None:
            raise UserError(message)


def _losses(outputs: Any) -> dict[str, Tensor]:
    """Pick the losses out of what a training step returns, as mmengine does."""
    if not isinstance(outputs, Mapping):
        return {}
    return {
        name: torch.as_tensor(value)
        for name, value in outputs.items()
        if 'loss' in name
        and (isinstance(value, int | float) or isinstance(value, Tensor) and value.numel() == 1)
    }


def _images(inputs: Any) -> Iterator[Tensor]:
    """Go through the batches of images, of which some preprocessors return several."""
    if isinstance(inputs, Tensor):
        if inputs.is_floating_point() and inputs.dim() > 1:
            yield inputs[None] if inputs.dim() == 3 else inputs
    elif isinstance(inputs, Mapping):
        for part in inputs.values():
            yield from _images(part)
    elif isinstance(inputs, list | tuple):
        for part in inputs:
            yield from _images(part)
