"""A bounded cache for tensors that follow from parameters."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmvheat.ops.plain import is_plain

__all__ = ['CachesDerived', 'DerivedCache', 'is_cacheable']


@dataclass(frozen=True)
class _Entry:
    """A tensor and what it was made from; the aliases keep that memory from being reused."""

    tensor: Tensor
    aliases: tuple[Tensor, ...]
    versions: tuple[int, ...]

    def is_current(self, sources: Sequence[Tensor]) -> bool:
        return len(sources) == len(self.aliases) and all(
            source.data_ptr() == alias.data_ptr() and source._version == version
            for source, alias, version in zip(sources, self.aliases, self.versions, strict=True)
        )


class DerivedCache:
    """Least-recently-used store of tensors computed from parameters, for inference.

    An entry is used while its sources have the same storage and version: an optimizer step,
    ``load_state_dict`` and ``.to()`` make new ones. Writes through ``.data`` (mmengine's EMA hook)
    show in neither: the owner is a :class:`CachesDerived`. The tensors are in no state dict, and
    copies and pickles of the owner start with an empty cache.

    Args:
        max_bytes: How much is kept, over all entries.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __deepcopy__(self, memo: dict) -> 'DerivedCache':
        return DerivedCache(self._max_bytes)

    def __reduce__(self) -> tuple:
        return DerivedCache, (self._max_bytes,)

    @property
    def nbytes(self) -> int:
        """Bytes of all kept tensors."""
        return sum(entry.tensor.nbytes for entry in self._entries.values())

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def get(
        self,
        key: Hashable,
        sources: Sequence[Tensor],
        make: Callable[[], Tensor],
    ) -> Tensor:
        """Return the tensor kept under ``key``, making it with ``make`` if there is none.

        Args:
            key: What it depends on beside the sources: size, dtype, device.
            sources: The parameters it is made from, or tensors that follow from these.
            make: Builds the tensor.
        """
        entry = self._entries.get(key)
        if entry is not None and entry.is_current(sources):
            self._entries.move_to_end(key)
            return entry.tensor
        self._entries.pop(key, None)
        # A tensor made in inference mode could not be saved for a later backward.
        with torch.inference_mode(False), torch.no_grad():
            entry = _Entry(
                make(),
                tuple(source.detach() for source in sources),
                tuple(source._version for source in sources),
            )
        if entry.tensor.nbytes <= self._max_bytes:
            self._entries[key] = entry
            while self.nbytes > self._max_bytes:
                self._entries.popitem(last=False)
        return entry.tensor


class CachesDerived(nn.Module):
    """Base of modules with :class:`DerivedCache` attributes: forgets them when its mode is set.

    mmengine's EMA hook swaps parameters through ``.data``, which shows nowhere else. What is moved
    or cast leaves nothing behind on the old device.
    """

    def train(self, mode: bool = True) -> 'CachesDerived':
        """Set the mode and forget what is kept."""
        self._forget_derived()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> 'CachesDerived':
        self._forget_derived()
        return super()._apply(fn, recurse)

    def _forget_derived(self) -> None:
        for value in vars(self).values():
            if isinstance(value, DerivedCache):
                value.clear()


def is_cacheable(tensors: Sequence[Tensor]) -> bool:
    """Whether all are real tensors whose changes show, as those of inference mode do not."""
    return is_plain(tensors) and not any(tensor.is_inference() for tensor in tensors)
