"""Focal loss (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017), each loss by itself.

``-alpha * (1 - p) ** gamma * log(p)``, p being the probability given to the right answer. Where
mmcv clamps ``1 - sigmoid(x)`` in float32 and is wrong for x > 17, the logarithms here are exact.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import wide

__all__ = [
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
    'softmax_focal_loss_backward',
    'softmax_focal_loss_forward',
]


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """One binary loss for each class.

    Args:
        input: Logits (N, C).
        target: Class of each row (N,), int64; a number outside 0 .. C - 1 is background.
        weight: Factor of each target class (C,), or empty; background has 1.
        output: Written (N, C).
        gamma: How fast the loss of sure predictions falls.
        alpha: Factor of the right class; the others have 1 - alpha.
    """
    logit, factor, _ = _binary(input, target, weight, alpha)
    output.copy_(-factor * torch.sigmoid(-logit) ** gamma * F.logsigmoid(logit))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Derivative of each loss by its logit, written to ``grad_input``; see the forward pass."""
    logit, factor, sign = _binary(input, target, weight, alpha)
    wrong = torch.sigmoid(-logit)
    slope = wrong**gamma * (gamma * (1 - wrong) * F.logsigmoid(logit) - wrong)
    grad_input.copy_(sign * factor * slope)


def _binary(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Logit of the right answer, factor and sign of every binary decision, each (N, C)."""
    input = wide(input)
    right = target[:, None] == torch.arange(input.size(1), device=input.device)
    sign = torch.where(right, 1.0, -1.0).to(input.dtype)
    factor = torch.where(right, alpha, 1 - alpha).to(input.dtype)
    if weight.numel():
        factor = factor * _of_class(wide(weight), target)[:, None]
    return input * sign, factor, sign


def _of_class(weight: Tensor, target: Tensor) -> Tensor:
    """Factor (N,) of every target, 1 for those that are no class."""
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, weight[target.clamp(0, len(weight) - 1)], 1)


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """One loss for each row.

    Args:
        input: Probabilities (N, C), not logits: mmcv applies the softmax itself.
        target: Class of each row (N,), int64; the loss of any other number is 0.
        weight: Factor of each class (C,), or empty.
        output: Written (N,).
        gamma: How fast the loss of sure predictions falls.
        alpha: Factor of all losses.
    """
    right, factor = _right(input, target, weight, alpha)
    output.copy_(-factor * (1 - right) ** gamma * right.log())


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Derivative of each loss by the logits, written to ``grad_input`` (N, C).

    ``buff`` (N,) receives the derivative by the logarithm of the right probability. See the forward
    pass for the rest.
    """
    right, factor = _right(input, target, weight, alpha)
    # Positive, since 0 to a negative power is infinite: the product's limit is 0.
    wrong = (1 - right).clamp_(min=torch.finfo(right.dtype).tiny)
    buff.copy_(factor * wrong ** (gamma - 1) * (gamma * right * right.log() - wrong))
    hit = target[:, None] == torch.arange(input.size(1), device=input.device)
    grad_input.copy_(wide(buff)[:, None] * (hit.to(right.dtype) - wide(input)))


def _right(input: Tensor, target: Tensor, weight: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Probability of the right class, never 0, and factor of every row, each (N,)."""
    input = wide(input)
    known = (target >= 0) & (target < input.size(1))
    index = torch.where(known, target, 0)
    right = input.gather(1, index[:, None])[:, 0].clamp(min=torch.finfo(input.dtype).tiny)
    factor = known.to(input.dtype) * alpha
    return right, factor * _of_class(wide(weight), target) if weight.numel() else factor
