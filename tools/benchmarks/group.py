"""Models that are timed together: what they are given, and whether their results agree.

Ours is compared with float64, the published code with ours (they have the same weights), a compiled
model with itself before.
"""

import argparse
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from agreement import Agreement, distance, require_agreement, worst_error
from options import DTYPES, autocast
from peers import OURS, PUBLISHED, published_name
from torch import Tensor, nn

__all__ = [
    'OUTPUT_TOLERANCES',
    'Group',
    'check_inference',
    'check_training',
    'infer',
    'loss_of',
]

# Of the largest value of the output.
OUTPUT_TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# cuDNN computes the convolutions of float32 in TF32.
TF32_TOLERANCE = 5e-3
# Of the length of all gradients; what low precision rounds adds up on the way back.
GRADIENT_TOLERANCES = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}


@dataclass
class Group:
    """Models of one size in one form, what they are given, and what is found out about them.

    Attributes:
        scale: Their size.
        models: The models by name, ``'... compiled'`` among them.
        images: Images for all.
        labels: Their classes.
        args: The command line.
        failures: Why a model cannot run.
        agreements: Results that were compared.
        peaks: Peak bytes on the GPU by name.
        saved: Bytes kept for the backward pass by name.
        optimizers: One for a model and itself compiled.
    """

    scale: str
    models: dict[str, nn.Module]
    images: Tensor
    labels: Tensor
    args: argparse.Namespace
    failures: dict[str, str] = field(default_factory=dict)
    agreements: list[Agreement] = field(default_factory=list)
    peaks: dict[str, int | None] = field(default_factory=dict)
    saved: dict[str, int] = field(default_factory=dict)
    optimizers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        """The precision that is timed."""
        return DTYPES[self.args.dtype]

    @property
    def output_tolerance(self) -> float:
        """How far outputs may be from each other."""
        if self.images.is_cuda and self.dtype == torch.float32:
            return TF32_TOLERANCE
        return OUTPUT_TOLERANCES[self.dtype]

    def compare(self, of: str, against: str, error: float, tolerance: float) -> None:
        """Compare two models' results."""
        precision = '' if ' in float32' in of else f' in {self.args.dtype}'
        what = f'{self.scale} {self.args.path}: {of}{precision}'
        self.agreements.append(require_agreement(what, against, error, tolerance))


def check_inference(group: Group, own: str, eager: str, one: Tensor) -> None:
    """Compare a model's outputs with what they have to be."""
    model, images, tolerance = group.models[own], group.images, group.output_tolerance
    exact = OUTPUT_TOLERANCES[torch.float32]
    if own != eager:
        # One image is another graph, which has to be compiled and right as well.
        for batch in [images] + [one] * ('latency' in group.args.phases):
            reference = infer(group, group.models[eager], batch)
            error = worst_error(infer(group, model, batch), reference)
            group.compare(f'{own} at batch {len(batch)}', eager, error, tolerance)
    elif own == OURS:
        wide = copy.deepcopy(model).double()
        with torch.no_grad():
            truth = as_tensors(wide(one.double()))
        # What low precision rounds could hide a mistake, so float32 is compared in any case.
        with without_tf32():
            error = worst_error(infer(group, model, one, torch.float32), truth)
        group.compare(f'{own} in float32', 'float64', error, exact)
        if group.dtype != torch.float32:
            error = worst_error(infer(group, model, one), truth)
            group.compare(own, 'float64', error, tolerance)
    elif own == PUBLISHED:
        ours = group.models[OURS]
        form = own + (' (inference form)' if group.args.path == 'classifier' else '')
        with without_tf32():
            theirs = infer(group, model, one, torch.float32)
            error = worst_error(infer(group, ours, one, torch.float32), theirs)
        group.compare(f'{OURS} in float32', form, error, exact)
        error = worst_error(infer(group, ours, images), infer(group, model, images))
        group.compare(f'{OURS} at batch {len(images)}', form, error, tolerance)


def check_training(group: Group, own: str, eager: str) -> None:
    """Compare a model's gradients with what they have to be."""
    model = group.models[own]
    if own != eager:
        error = distance(gradients(group, model), gradients(group, group.models[eager]))
        group.compare(own, f'{eager} (gradients)', error, GRADIENT_TOLERANCES[group.dtype])
    elif own == PUBLISHED:
        ours = group.models[OURS]
        names = [published_name(name, group.args.path) for name, _ in ours.named_parameters()]
        # In float32 and on two images: this is about the mathematics.
        with without_tf32():
            theirs = gradients(group, model, names, images=2, dtype=torch.float32)
            mine = gradients(group, ours, images=2, dtype=torch.float32)
        tolerance = GRADIENT_TOLERANCES[torch.float32]
        group.compare(f'{OURS} in float32', f'{own} (gradients)', distance(mine, theirs), tolerance)


def infer(
    group: Group, model: nn.Module, images: Tensor, dtype: torch.dtype | None = None
) -> list[Tensor]:
    """Run a model as it is used for inference, in the precision that is timed or another."""
    with torch.no_grad(), autocast(images.device, dtype or group.dtype):
        return as_tensors(model(images))


@contextmanager
def without_tf32() -> Iterator[None]:
    """Let cuDNN compute float32 convolutions in float32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def loss_of(
    group: Group, model: nn.Module, images: int | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Cross entropy of logits; of maps the mean square, as a detector's heads are not timed."""
    batch, labels = group.images[:images], group.labels[:images]
    with autocast(batch.device, dtype or group.dtype):
        outputs = as_tensors(model(batch))
        if group.args.path == 'classifier':
            return F.cross_entropy(outputs[0], labels)
    return sum(one.float().square().mean() for one in outputs)


def gradients(
    group: Group,
    model: nn.Module,
    names: list[str] | None = None,
    images: int | None = None,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Gradients of all parameters, or of the named ones in their order."""
    parameters = dict(model.named_parameters())
    wanted = [parameters[name] for name in names or parameters]
    return list(torch.autograd.grad(loss_of(group, model, images, dtype), wanted))


def as_tensors(outputs: Tensor | list[Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
    """Logits or maps, always as a list."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
