"""Start the variant that learns its diffusivity from a vHeat that predicts it."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from mmvheat.errors import UserError

from .convert import rename
from .fold import check_linear
from .names import BACKBONE, EMBEDDING, TO_K_WEIGHT, embedding_name

__all__ = ['learn_diffusivity']


def learn_diffusivity(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn what predicts the diffusivity into values that can be learned themselves.

    A model of ``arch=dict(..., diffusivity='learned')`` that loads the result gives what the source
    gives, at any image size: what is kept is what the rectifier gets, ``linear(freq_embed)``, and
    interpolating that is the same as interpolating the embedding.

    Args:
        tensors: State dict of a vHeat backbone, classifier, detector or segmentor that predicts
            its diffusivity, with the published names or mmengine's, under any prefix. It is left
            as it is.

    Returns:
        The new state dict with mmengine's names, ``op.mixer.k`` of shape (H, W, C) in the place of
        each ``op.to_k`` and of the embeddings; everything else shares its memory.

    Raises:
        UserError: If this is no vHeat that predicts its diffusivity, or it is incomplete.

    Example:
        >>> from mmvheat.models import VHeat
        >>> source = VHeat(dict(depths=(1,), dims=8), img_size=32, out_indices=0)
        >>> learned = learn_diffusivity(source.state_dict())
        >>> learned['backbone.layers.0.0.op.mixer.k'].shape
        torch.Size([8, 8, 8])
    """
    names, _ = rename(tensors)
    state = {new: tensors[old].detach() for old, new in names.items()}
    learned = {}
    for name, tensor in state.items():
        own = name.removeprefix(BACKBONE)
        if match := TO_K_WEIGHT.fullmatch(own):
            operator = name.removesuffix('to_k.0.weight')
            embed = state[f'{BACKBONE}{embedding_name(int(match[1]))}']
            bias = state.get(f'{operator}to_k.0.bias')
            check_linear(name, tensor, bias, embed)
            learned[f'{operator}mixer.k'] = F.linear(embed, tensor, bias)
        elif '.op.to_k.' not in own and not EMBEDDING.fullmatch(own):
            learned[name] = tensor
    if not learned.keys() - state.keys():
        raise UserError(
            'it predicts no diffusivity (no layers.*.op.to_k): give a checkpoint of a vHeat with '
            "diffusivity='predicted' in the training form"
        )
    return learned
