"""A bounded cache for constants that depend on size, dtype and device alone."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

__all__ = ['ConstantCache']


class ConstantCache:
    """Least-recently-used store of constant tensors.

    The tensors live outside any module, so no state dict, ``.to()``, ``.half()`` or deep copy
    sees them: each caller's key says which one it needs.

    Args:
        capacity: How many tensors are kept.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Hashable, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable, make: Callable[[], Tensor], like: Tensor) -> Tensor:
        """Return the tensor kept under ``key``, making it with ``make`` when there is none.

        Args:
            key: All that the tensor depends on: sizes, dtype, device.
            make: Builds the tensor.
            like: The tensor it is used with. Where that one is traced or fake, nothing is kept:
                a constant made under a tracer must not outlive it.
        """
        if torch.compiler.is_compiling() or type(like) is not Tensor:
            return make()
        found = self._entries.pop(key, None)
        if found is None:
            # A tensor made in inference mode could not be saved for a later backward.
            with torch.inference_mode(False), torch.no_grad():
                found = make()
            if type(found) is not Tensor:  # a mode is active that fakes every new tensor
                return found
        self._entries[key] = found
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
        return found
