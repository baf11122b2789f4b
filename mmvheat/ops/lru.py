"""A bounded store that several threads may use at once."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

from torch import Tensor

__all__ = ['LruStore']


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
