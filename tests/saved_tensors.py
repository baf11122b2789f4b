"""What autograd keeps between the forward and the backward pass."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def saved_tensors(run: Callable[[], Tensor], leaves: Iterable[Tensor] = ()) -> list[Tensor]:
    """Run a forward pass and return what is kept, one tensor a storage, without the leaves'."""
    known = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in known:
            kept[address] = tensor.detach()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    assert result.requires_grad
    return list(kept.values())
