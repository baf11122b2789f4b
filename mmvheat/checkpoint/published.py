"""The published code's files as mmengine expects them, so that they load without converting."""

from collections.abc import Mapping
from typing import Any

from mmvheat.errors import UserError

from .convert import rename
from .formats import class_metadata, find_state_dict
from .names import BACKBONE, backbone_prefix, unwrapped_names

__all__ = ['as_mmengine_checkpoint']


def as_mmengine_checkpoint(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Give a published checkpoint the form of mmengine's; leave every other one as it is.

    Published are the classifier's names (``freq_embed.0``, ``layers...``, ``classifier.3``) under
    ``model`` or ``model_ema``, or a classifier that stands bare or in safetensors. Of ``model``
    and ``model_ema`` the first is taken.

    Args:
        checkpoint: What a file held.

    Returns:
        ``{state_dict, meta}`` with mmpretrain's names (``backbone.*``, ``backbone.outnorm3``,
        ``head.fc``), tensors shared with the source; or the very same checkpoint.

    Raises:
        UserError: If it is a published one that cannot be used: incomplete, or folded for
            inference.
    """
    if not isinstance(checkpoint, Mapping):
        return checkpoint
    try:
        found = find_state_dict(checkpoint)
    except UserError:
        return checkpoint  # Nothing of ours: whoever reads it knows better what it should be.
    names = [name for name in unwrapped_names(found.tensors).values() if name is not None]
    is_vheat = any(name.startswith('layers.0.0.op.') for name in names)
    is_classifier = any(name.startswith('classifier.') for name in names)
    if not is_vheat or not (is_classifier or found.key in ('model', 'model_ema')):
        return checkpoint
    if backbone_prefix(names).endswith(BACKBONE):
        return checkpoint
    renamed, _ = rename(found.tensors)
    return {
        'state_dict': {new: found.tensors[old].detach() for old, new in renamed.items()},
        'meta': class_metadata(checkpoint),
    }
