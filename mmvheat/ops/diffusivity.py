"""The diffusivity that a layer learns: Sec. 3.3 of the vHeat paper (arXiv 2405.16555)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import without_autocast

__all__ = ['predict_diffusivity']


def predict_diffusivity(freq_embed: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Predict the diffusivity of every frequency and channel, ``relu(linear(freq_embed))``.

    Args:
        freq_embed: Frequency embedding of shape (H, W, C).
        weight: Weight of the linear layer, shape (C, C).
        bias: Its bias, shape (C,).

    Returns:
        Diffusivity of shape (H, W, C), not negative; at least float32 also under autocast, for it
        is an exponent.
    """
    dtype = torch.promote_types(freq_embed.dtype, torch.float32)
    with without_autocast(freq_embed.device.type):
        return F.relu(F.linear(freq_embed.to(dtype), weight.to(dtype), bias.to(dtype)))
