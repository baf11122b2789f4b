"""What is timed must be right: refuse to report figures of a result that disagrees."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmvheat.errors import UserError

__all__ = ['Agreement', 'Disagreement', 'distance', 'require_agreement', 'worst_error']


class Disagreement(UserError):
    """Two results that must be equal are not."""


@dataclass(frozen=True)
class Agreement:
    """Two results that were compared and agree."""

    of: str
    against: str
    error: float
    tolerance: float


def require_agreement(of: str, against: str, error: float, tolerance: float) -> Agreement:
    """Refuse a result that is too far from what it has to be.

    Args:
        of: What gave the result.
        against: What it was compared with.
        error: How far it is from there, relative.
        tolerance: How far it may be.

    Raises:
        Disagreement: If it is further, or not a number.
    """
    if not error <= tolerance:
        raise Disagreement(
            f'{of} disagrees with {against}: relative error {error:.2e}, tolerance '
            f'{tolerance:.0e}; nothing is reported'
        )
    return Agreement(of, against, error, tolerance)


def worst_error(results: Tensor | Sequence[Tensor], references: Tensor | Sequence[Tensor]) -> float:
    """Largest difference over the largest reference; infinite where shapes or numbers differ.

    Of several tensors, such as the maps of a backbone, it is that of the worst.
    """
    if isinstance(results, Tensor):
        results, references = [results], [references]
    if [tuple(one.shape) for one in results] != [tuple(one.shape) for one in references]:
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
    if [tuple(one.shape) for one in results] != [tuple(one.shape) for one in references]:
        return math.inf
    pairs = [
        (a.detach().double(), b.detach().double()) for a, b in zip(results, references, strict=True)
    ]
    off = sum(torch.sum((a - b.to(a.device)) ** 2).item() for a, b in pairs)
    return math.sqrt(off / sum(torch.sum(b**2).item() for _, b in pairs))
