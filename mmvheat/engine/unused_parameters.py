"""One line in place of DistributedDataParallel's message about parameters without a gradient."""

import re

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmvheat.errors import UserError

__all__ = ['explain_unused_parameters']

_COMPLAINT = 'Expected to have finished reduction in the prior iteration'
_INDICES = re.compile(r'did not receive grad for rank \d+: ((?:\d+ ?)+)')
_MOST_NAMES = 4


def explain_unused_parameters(error: Exception, model: nn.Module) -> None:
    """Raise a clear error if ``error`` is DistributedDataParallel's about unused parameters.

    Args:
        error: What stopped a training.
        model: The model in its distributed wrapper.

    Raises:
        UserError: With the names of the parameters and what to do about them.
    """
    if _COMPLAINT not in str(error) or not isinstance(model, DistributedDataParallel):
        return
    # The reducer counts the parameters that learn, in this order.
    names = [name for name, value in model.module.named_parameters() if value.requires_grad]
    found = _INDICES.search(str(error))
    unused = [names[int(index)] for index in found[1].split()] if found else []
    shown = ', '.join(unused[:_MOST_NAMES]) or 'some parameters'
    if len(unused) > _MOST_NAMES:
        shown += f' and {len(unused) - _MOST_NAMES} more'
    advice = 'set find_unused_parameters=True in the config, which costs a little time'
    norms = sorted({name.split('.')[1] for name in unused if name.startswith('backbone.outnorm')})
    if norms:
        maps = ', '.join(name.removeprefix('outnorm') for name in norms)
        advice = (
            f'no neck or head uses map {maps} of the backbone: leave it out of '
            'model.backbone.out_indices and fit model.neck (for RetinaNet, ATSS, FCOS '
            'out_indices=(1, 2, 3) with start_level=0 and in_channels without the first), or '
            f'{advice}'
        )
    raise UserError(
        f'{shown} got no gradient in the first iteration, for which DistributedDataParallel waits: '
        f'{advice}'
    ) from error
