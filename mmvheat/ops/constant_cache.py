"""A bounded cache for constants that depend on size, dtype and device alone."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from .lru import LruStore
from .plain import is_capturing, is_plain

__all__ = ['ConstantCache']


class ConstantCache:
    """Least-recently-used store of constant tensors, for any number of threads.

    The tensors live outside any module, so no state dict, ``.to()``, ``.half()`` or deep copy
    sees them: each caller's key says which one it needs.

    Args:
        capacity: How many tensors are kept.
    """

    def __init__(self, capacity: int) -> None:
        self._store = LruStore(capacity, size_of=lambda tensor: 1)

    def __len__(self) -> int:
        return len(self._store)

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
        found = self._store.get(key)
        if found is not None:
            return found
        # A tensor made in inference mode could not be saved for a later backward.
        with torch.inference_mode(False), torch.no_grad():
            made = make()
        # A mode or a transform may be active that fakes or wraps every new tensor.
        if not is_plain([made]) or is_capturing(made.device):
            return made
        return self._store.put(key, made)
