"""What a vHeat backbone does with a state dict before it is loaded, by whatever function."""

import math
from logging import INFO, WARNING

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmvheat.checkpoint.fit import compare_weights
from mmvheat.checkpoint.names import (
    EMBEDDING,
    FOLDED_DECAY,
    INPUT_CONV,
    MIXER,
    is_sharded,
    unwrapped_name,
)
from mmvheat.checkpoint.spectra import is_spectrum, resize_spectrum, spectrum_size
from mmvheat.errors import UserError

__all__ = ['adapt_input_channels', 'prepare_state_dict']


def prepare_state_dict(
    module: nn.Module,
    state_dict: dict[str, Tensor],
    prefix: str,
    local_metadata: dict,
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Report how a state dict fits, compare its form with the backbone's, and fit what can be.

    That is the first convolution of a backbone for RGB images, to this one's number of channels,
    and the frequency embeddings, or what a variant learns in their place, to this one's size.

    Args:
        module: The backbone.
        state_dict: What is being loaded; what is fitted is replaced in it.
        prefix: What the backbone's keys start with.
        local_metadata: Not used, as all that follow: they are the hook's interface.
        strict: Not used.
        missing_keys: Not used.
        unexpected_keys: Not used.
        error_msgs: Not used.

    Raises:
        UserError: If the checkpoint is folded for inference and the backbone is not, or for
            another size, or the other way round, or its diffusivity is fixed at another number.
            Raised, not reported: mmengine loads on after a report.
    """
    _report_fit(module, state_dict, prefix)
    conv = state_dict.get(f'{prefix}{INPUT_CONV}')
    if conv is not None and conv.dim() == 4 and conv.size(1) == 3:
        in_channels = module.patch_embed.conv1.in_channels
        state_dict[f'{prefix}{INPUT_CONV}'] = adapt_input_channels(conv, in_channels)
    names = [key for key in state_dict if key.startswith(prefix)]
    folded = [key for key in names if FOLDED_DECAY.fullmatch(key, len(prefix))]
    if module.folded_for is None:
        if folded:
            raise UserError(
                f'the checkpoint is folded for inference (it has {folded[0]}): load one of the '
                'training form, or build the backbone with inference_form=True'
            )
        _check_fixed_diffusivity(module, state_dict, prefix)
        _fit_spectra(module, state_dict, prefix)
        return
    patterns = EMBEDDING, MIXER
    unfolded = [key for key in names if any(p.fullmatch(key, len(prefix)) for p in patterns)]
    if unfolded:
        raise UserError(
            f'the backbone is in the inference form and the checkpoint is not (it has '
            f'{unfolded[0]}): fold it with tools/fold_for_inference.py, or build the backbone '
            'with inference_form=False'
        )
    own = {f'{prefix}{name}': parameter for name, parameter in module.named_parameters()}
    for key in folded:
        if key in own and state_dict[key].shape != own[key].shape:
            raise UserError(
                f'{key} is {tuple(state_dict[key].shape)} in the checkpoint, '
                f'{tuple(own[key].shape)} in the backbone, which is folded for images of '
                f'{module.folded_for[0]} x {module.folded_for[1]}: a folded checkpoint serves one '
                'arch at the one size that it was folded for'
            )


def adapt_input_channels(weight: Tensor, in_channels: int) -> Tensor:
    """Fit the weight of a convolution over RGB images to images of other channels, as timm does.

    For one channel it is the sum over the three: a grey image gives what its RGB copy gives. For
    more, the three are repeated in turn and scaled by ``3 / in_channels``, so that responses keep
    their size.

    Args:
        weight: Of shape (out_channels, 3, height, width).
        in_channels: Channels of the images.

    Returns:
        A weight of shape (out_channels, in_channels, height, width) in the dtype of ``weight``,
        which is returned itself for three channels.

    Example:
        >>> adapt_input_channels(torch.ones(8, 3, 3, 3), 4).sum(1).unique()
        tensor([3.])
    """
    if in_channels == 3:
        return weight
    # Computed in float32 at least, like timm's adapt_input_conv.
    rgb = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if in_channels == 1:
        fitted = rgb.sum(1, keepdim=True)
    else:
        fitted = rgb[:, [i % 3 for i in range(in_channels)]] * (3 / in_channels)
    return fitted.to(weight.dtype)


def _fit_spectra(module: nn.Module, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Resize the embeddings and learned spectra of a checkpoint to those of the backbone."""
    for name, parameter in module.named_parameters():
        own, shape = unwrapped_name(name), tuple(parameter.shape)
        given = state_dict.get(f'{prefix}{name}')
        if given is None or given.shape == shape or not is_spectrum(own, shape):
            continue
        if len(shape) < 3 or given.shape[2:] != shape[2:]:
            continue  # another arch: torch reports the mismatch
        state_dict[f'{prefix}{name}'] = resize_spectrum(own, given, spectrum_size(own, shape))


def _check_fixed_diffusivity(module: nn.Module, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Compare the numbers at which the diffusivities of a checkpoint and of the backbone are fixed.

    Raises:
        UserError: If they differ: what is loaded would silently take the place of what was asked.
    """
    for name, wanted in module.named_buffers():
        given = state_dict.get(f'{prefix}{name}')
        if given is None or given.dim() or wanted.dim() or given.is_meta or wanted.is_meta:
            continue
        # Either may have been rounded to half precision.
        if not math.isclose(given.item(), wanted.item(), rel_tol=1e-2):
            raise UserError(
                f'the diffusivity is fixed at k={given.item():g} in the checkpoint and at '
                f'k={wanted.item():g} in the backbone: build it with the k of the checkpoint'
            )


def _report_fit(module: nn.Module, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Count in one log line what matches, is fitted, missing and unexpected, before it is loaded.

    Here, for mmengine loads without ``load_state_dict`` of the module, and only warns of what does
    not fit.

    Raises:
        UserError: If there are weights for the backbone, and none of them matches.
    """
    # The fixed diffusivity of a variant is its only buffer.
    parameters = dict(module.named_parameters()) | dict(module.named_buffers())
    if any(map(is_sharded, parameters)):
        return  # Their shapes are those of shards.
    own = {unwrapped_name(name): parameter.shape for name, parameter in parameters.items()}
    given = {
        key.removeprefix(prefix): tensor
        for key, tensor in state_dict.items()
        if key.startswith(prefix) and isinstance(tensor, Tensor)
    }
    fit = compare_weights(own, given)
    if given and not fit.matched:
        raise UserError(
            f'none of the weights matches the backbone {type(module).__name__}: {fit.summary()}; '
            "give a checkpoint of the same vHeat, and set init_cfg's prefix to what stands before "
            'its keys (backbone.)'
        )
    name = f'{prefix}{type(module).__name__}' if prefix else type(module).__name__
    print_log(f'Load {name}: {fit.counts()}', 'current', WARNING if fit.misshaped else INFO)
