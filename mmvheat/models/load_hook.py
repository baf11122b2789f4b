"""What a vHeat backbone does with a state dict before it loads it."""

from torch import Tensor, nn

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
    """Hold the form to the backbone's and resize frequency embeddings.

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
    names = [key for key in state_dict if key.startswith(prefix)]
    folded = [key for key in names if key.endswith('.op.k_exp')]
    if module.folded_for is None:
        if folded:
            raise UserError(
                f'the checkpoint is folded for inference (it has {folded[0]}): load one of the '
                'training form, or build the backbone with inference_form=True'
            )
        _fit_freq_embeds(module, state_dict, prefix)
        return
    unfolded = [key for key in names if key.startswith(f'{prefix}freq_embed.')]
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
    if folded:
        module.forget_unfolded()


def _fit_freq_embeds(module: nn.Module, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Resize the embeddings of a checkpoint to those of the backbone."""
    for i, embed in enumerate(module.freq_embed):
        key = f'{prefix}freq_embed.{i}'
        given = state_dict.get(key)
        if given is None or given.dim() != 3 or given.shape == embed.shape:
            continue
        if given.size(2) != embed.size(2):
            continue  # another arch: torch reports the mismatch
        state_dict[key] = resize_freq_embed(given, tuple(embed.shape[:2]))
