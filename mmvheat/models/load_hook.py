"""What a vHeat backbone does with a state dict before it is loaded, by whatever function."""

from logging import INFO, WARNING

from mmengine.logging import print_log
from torch import Tensor, nn

from mmvheat.checkpoint.fit import compare_weights
from mmvheat.checkpoint.names import (
    EMBEDDING,
    FOLDED_DECAY,
    embedding_name,
    is_sharded,
    unwrapped_name,
)
from mmvheat.errors import UserError
from mmvheat.ops import resize_freq_embed

__all__ = ['prepare_state_dict']


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
    """Report how a state dict fits, compare its form with the backbone's, and resize embeddings.

    Args:
        module: The backbone.
        state_dict: What is being loaded; its embeddings are replaced by resized ones.
        prefix: What the backbone's keys start with.
        local_metadata: Not used, as all that follow: they are the hook's interface.
        strict: Not used.
        missing_keys: Not used.
        unexpected_keys: Not used.
        error_msgs: Not used.

    Raises:
        UserError: If the checkpoint is folded for inference and the backbone is not, or for
            another size, or the other way round. Raised, not reported: mmengine loads on after a
            report.
    """
    _report_fit(module, state_dict, prefix)
    names = [key for key in state_dict if key.startswith(prefix)]
    folded = [key for key in names if FOLDED_DECAY.fullmatch(key, len(prefix))]
    if module.folded_for is None:
        if folded:
            raise UserError(
                f'the checkpoint is folded for inference (it has {folded[0]}): load one of the '
                'training form, or build the backbone with inference_form=True'
            )
        _fit_freq_embeds(module, state_dict, prefix)
        return
    unfolded = [key for key in names if EMBEDDING.fullmatch(key, len(prefix))]
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


def _fit_freq_embeds(module: nn.Module, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Resize the embeddings of a checkpoint to those of the backbone."""
    for i, embed in enumerate(module.freq_embed):
        key = f'{prefix}{embedding_name(i)}'
        given = state_dict.get(key)
        if given is None or given.dim() != 3 or given.shape == embed.shape:
            continue
        if given.size(2) != embed.size(2):
            continue  # another arch: torch reports the mismatch
        state_dict[key] = resize_freq_embed(given, tuple(embed.shape[:2]))


def _report_fit(module: nn.Module, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Count in one log line what matches, is resized, missing and unexpected, before it is loaded.

    Here, for mmengine loads without ``load_state_dict`` of the module, and only warns of what does
    not fit.

    Raises:
        UserError: If there are weights for the backbone, and none of them matches.
    """
    parameters = dict(module.named_parameters())
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
