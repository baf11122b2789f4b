"""What is timed must be right: no figure of a result that disagrees is reported.

Our model is compared with itself in float64, the published code with ours (they have the same
weights), and a compiled model with itself uncompiled.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from models import Group, as_tensors, published_name
from options import OURS, PUBLISHED
from torch import Tensor

from mmvheat.errors import UserError

# Of the largest value of the output.
OUTPUT_TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# cuDNN computes the convolutions of float32 in TF32.
TF32_TOLERANCE = 5e-3
# Of the length of all gradients; rounding errors of low precision add up in the backward pass.
GRADIENT_TOLERANCES = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}


class Disagreement(UserError):
    """Two results that must be equal are not."""


def require_agreement(of: str, against: str, error: float, tolerance: float) -> dict:
    """Refuse a result that is too far from what it has to be.

    Args:
        of: What gave the result.
        against: What it was compared with.
        error: The relative error.
        tolerance: The largest error that is accepted.

    Returns:
        The entry of the record.

    Raises:
        Disagreement: If the error is larger, or not a number.
    """
    if not error <= tolerance:
        raise Disagreement(
            f'{of} disagrees with {against}: relative error {error:.2e}, tolerance '
            f'{tolerance:.0e}; nothing is reported'
        )
    return {'of': of, 'against': against, 'error': error, 'tolerance': tolerance}


def worst_error(results: Tensor | Sequence[Tensor], references: Tensor | Sequence[Tensor]) -> float:
    """Largest difference over the largest reference, of the worst tensor if there are several.

    It is infinite where the shapes or the numbers of tensors differ.
    """
    results, references = as_tensors(results), as_tensors(references)
    if [one.shape for one in results] != [one.shape for one in references]:
        return math.inf
    errors = []
    for result, reference in zip(results, references, strict=True):
        # On the CPU: a second copy in float64 may not fit a GPU.
        reference = reference.detach().double().cpu()
        difference = (result.detach().double().cpu() - reference).abs().max()
        errors.append((difference / reference.abs().max()).item())
    # A NaN would hide in max().
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def distance(results: Sequence[Tensor], references: Sequence[Tensor]) -> float:
    """Length of the difference over the length of the reference, of all tensors as one vector.

    For gradients: single ones are too small to have a relative error of their own.
    """
    if [one.shape for one in results] != [one.shape for one in references]:
        return math.inf
    off = total = 0.0
    for result, reference in zip(results, references, strict=True):
        reference = reference.detach().double()
        off += (result.detach().double() - reference).square().sum().item()
        total += reference.square().sum().item()
    return math.sqrt(off / total)


def check_inference(group: Group, name: str, eager: str, alone: bool) -> list[dict]:
    """Compare the outputs of a model with what they have to be.

    Args:
        group: The models of its size.
        name: The model.
        eager: Its name before it was compiled.
        alone: Whether a single image will be timed too, which is another graph to compile.

    Returns:
        Entries of the record.
    """
    exact, loose = OUTPUT_TOLERANCES[torch.float32], OUTPUT_TOLERANCES[group.dtype]
    if group.device.type == 'cuda' and group.dtype == torch.float32:
        loose = TF32_TOLERANCE
    found: list[dict] = []

    def compare(of, against, results, references, tolerance) -> None:
        error = worst_error(results, references)
        found.append(require_agreement(f'{group.what}: {of}', against, error, tolerance))

    images, one, precision = group.images, group.one, str(group.dtype).removeprefix('torch.')
    if name != eager:
        for batch in (images, one) if alone else (images,):
            of = f'{name} at batch {len(batch)} in {precision}'
            compare(of, eager, group.infer(name, batch), group.infer(eager, batch), loose)
    elif name == OURS:
        wide = copy.deepcopy(group.models[name]).double()
        with torch.no_grad():
            truth = wide(one.double())
        # Rounding in low precision could hide a mistake, so float32 is compared in any case.
        with without_tf32():
            result = group.infer(name, one, torch.float32)
        compare(f'{name} in float32', 'float64', result, truth, exact)
        if group.dtype != torch.float32:
            compare(f'{name} in {precision}', 'float64', group.infer(name, one), truth, loose)
    elif name == PUBLISHED:
        form = name + (' (inference form)' if group.path == 'classifier' else '')
        with without_tf32():
            ours, theirs = (group.infer(one_of, one, torch.float32) for one_of in (OURS, name))
        compare(f'{OURS} in float32', form, ours, theirs, exact)
        ours, theirs = (group.infer(one_of, images) for one_of in (OURS, name))
        compare(f'{OURS} at batch {len(images)} in {precision}', form, ours, theirs, loose)
    return found


def check_training(group: Group, name: str, eager: str) -> list[dict]:
    """Compare the gradients of a model with what they have to be, as :func:`check_inference`."""
    precision = str(group.dtype).removeprefix('torch.')
    if name != eager:
        of, against, tolerance = f'{name} in {precision}', eager, GRADIENT_TOLERANCES[group.dtype]
        error = distance(group.gradients(name), group.gradients(eager))
    elif name == PUBLISHED:
        of, against, tolerance = f'{OURS} in float32', name, GRADIENT_TOLERANCES[torch.float32]
        own = [one for one, _ in group.models[OURS].named_parameters()]
        names = [published_name(one, group.path) for one in own]
        # In float32 and on two images: this is about the mathematics.
        with without_tf32():
            ours = group.gradients(OURS, own, images=2, dtype=torch.float32)
            theirs = group.gradients(name, names, images=2, dtype=torch.float32)
        error = distance(ours, theirs)
    else:
        return []
    return [require_agreement(f'{group.what}: {of}', f'{against} (gradients)', error, tolerance)]


@contextmanager
def without_tf32() -> Iterator[None]:
    """Let cuDNN compute float32 convolutions in float32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
