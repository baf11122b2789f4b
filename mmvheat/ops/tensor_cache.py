"""Bounded stores of tensors that several threads may use at once."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

import torch
from torch import Tensor

from .dispatch import has_open_size, is_capturing, is_exporting, is_plain

__all__ = ['ConstantCache', 'LruStore']


class LruStore:
    """Least-recently-used store of tensors; at no moment does it hold more than its limit.

    Args:
        limit: How much is kept, in the unit of ``size_of``.
        size_of: Size of a tensor.
    """

    def __init__(self, limit: int, size_of: Callable[[Tensor], int]) -> None:
        self._limit = limit
        self._size_of = size_of
        self._used = 0
        self._entries: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def used(self) -> int:
        """Sizes of all kept tensors, added up."""
        return self._used

    def get(self, key: Hashable) -> Tensor | None:
        """Return the tensor kept under ``key``, None if there is none."""
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: Hashable, tensor: Tensor) -> Tensor:
        """Keep a tensor if it fits; return what was kept first, should another thread have won."""
        size = self._size_of(tensor)
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                return found
            if size <= self._limit:
                while self._used + size > self._limit:
                    self._used -= self._size_of(self._entries.popitem(last=False)[1])
                self._entries[key] = tensor
                self._used += size
        return tensor

    def close(self) -> None:
        """Forget everything, and keep nothing from now on."""
        with self._lock:
            self._entries.clear()
            self._used, self._limit = 0, -1


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
        if is_exporting() and not has_open_size(key):
            # A constant of the graph, if it is known already: no run of it computes it again.
            found = self._store.get(key)
            return make() if found is None else found
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
