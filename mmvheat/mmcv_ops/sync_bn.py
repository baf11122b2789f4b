"""mmcv's synchronised batch normalisation (``MMSyncBN``), the part that one process computes.

Maps are (N, C, pixels). mmcv averages statistics and gradients over the processes between these
calls.
"""

from torch import Tensor

__all__ = [
    'sync_bn_backward_data',
    'sync_bn_backward_param',
    'sync_bn_forward_mean',
    'sync_bn_forward_output',
    'sync_bn_forward_var',
]


def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Mean of each channel, written to ``mean`` (C,)."""
    mean.copy_(input.float().mean(dim=(0, 2)))


def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Mean squared distance from ``mean`` (C,) of each channel, written to ``var`` (C,)."""
    var.copy_((input.float() - mean[:, None]).square().mean(dim=(0, 2)))


def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    norm: Tensor,
    std: Tensor,
    output: Tensor,
    eps: float,
    momentum: float,
    group_size: int,
) -> None:
    """Normalise, and move the running statistics.

    Args:
        input: (N, C, pixels).
        mean: (C,), of all processes.
        var: (C,), of all processes.
        weight: (C,), or empty for no affine map.
        bias: (C,), or empty.
        running_mean: Updated (C,), or empty.
        running_var: Updated (C,) with the unbiased variance, or empty.
        norm: Written (N, C, pixels): the normalised input, which the backward pass needs.
        std: Written (C,): the standard deviations.
        output: Written (N, C, pixels).
        eps: Added to the variance.
        momentum: Share of the new statistics.
        group_size: Number of processes.
    """
    std.copy_((var + eps).sqrt())
    norm.copy_((input.float() - mean[:, None]) / std[:, None])
    affine = weight is not None and weight.numel()
    output.copy_(norm * weight[:, None] + bias[:, None] if affine else norm)
    if running_mean is not None and running_mean.numel():
        count = input.size(0) * input.size(2) * group_size
        unbiased = var * count / (count - 1) if count > 1 else var
        momentum = float(momentum)
        running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
        running_var.mul_(1 - momentum).add_(unbiased, alpha=momentum)


def sync_bn_backward_param(
    grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor
) -> None:
    """Gradients of the affine map, written to ``grad_weight`` and ``grad_bias`` (C,)."""
    grads = grad_output.float()
    grad_weight.copy_((grads * norm).sum(dim=(0, 2)))
    grad_bias.copy_(grads.sum(dim=(0, 2)))


def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """Gradient of the input, written to ``grad_input`` (N, C, pixels)."""
    count = grad_output.size(0) * grad_output.size(2)
    common = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_((weight / std)[:, None] * (grad_output.float() - common))
