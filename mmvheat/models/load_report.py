"""Say how a state dict fits a vHeat backbone, whoever loads it."""

from logging import INFO, WARNING

from mmengine.logging import print_log
from torch import Tensor, nn

from mmvheat.checkpoint.fit import compare_weights
from mmvheat.errors import UserError

__all__ = ['report_fit']

# What FSDP puts into names of parameters, whose shapes are then those of shards.
_SHARDED = ('_fsdp_wrapped_module.', '_flat_param')


def report_fit(
    module: nn.Module,
    state_dict: dict[str, Tensor],
    prefix: str,
    local_metadata: dict,
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Count in one log line what matches, is resized, missing and unexpected, before it is loaded.

    A hook, for mmengine loads without ``load_state_dict`` of the module, and only warns of what
    does not fit.

    Args:
        module: The backbone.
        state_dict: What is being loaded, of the whole model.
        prefix: What the backbone's keys start with.
        local_metadata: Not used, as all that follow: they are the hook's interface.
        strict: Not used.
        missing_keys: Not used.
        unexpected_keys: Not used.
        error_msgs: Not used.

    Raises:
        UserError: If there are weights for the backbone, and none of them matches.
    """
    own = {
        name.replace('_checkpoint_wrapped_module.', ''): parameter.shape
        for name, parameter in module.named_parameters()
    }
    if any(part in name for name in own for part in _SHARDED):
        return
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
