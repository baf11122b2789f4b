"""A backbone's forward pass on a CPU with packed weights, and whether it may be taken."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmvheat.layers.blocks import Stem
from mmvheat.layers.packed import PackedBlock, PackedDownsample, PackedStem
from mmvheat.ops import resize_freq_embed
from mmvheat.ops.dispatch import compute_dtype, is_plain, without_autocast
from mmvheat.ops.packed import can_pack

if TYPE_CHECKING:
    from .vheat import StageDecays, VHeat

__all__ = ['PackedForward']

# A weight, its version, address and so many bytes from there, with their values.
_State = tuple[Tensor, int | None, int, int, bytes]

# So many bytes of each weight are compared in each forward pass.
_HEAD_BYTES = 64


@dataclass(frozen=True)
class _Packed:
    """All that is packed for one dtype."""

    stem: PackedStem | nn.Module
    stages: Sequence[Sequence[PackedBlock]]
    downsamples: Sequence[PackedDownsample]


class PackedForward:
    """What a backbone keeps between two forward passes with packed weights.

    The packed weights are a copy. Each pass looks whether they still are the model's: other
    parameters, another version of one (torch counts changes in-place) or other values at its
    beginning (which shows what is done through ``.data``) make it pack anew.

    Copies and pickles of the owner start with nothing packed, and no state dict has it.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._by_dtype: dict[torch.dtype, _Packed] = {}
        self._seen: list[_State] = []
        self._kept: list[StageDecays | None] | None = None
        self._lock = Lock()

    def __deepcopy__(self, memo: dict) -> 'PackedForward':
        return _make(self.wanted)

    def __reduce__(self) -> tuple:
        return _make, (self.wanted,)

    def clear(self) -> None:
        """Free the memory; the next pass packs anew, if that is wanted."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        self._by_dtype, self._seen, self._kept = {}, [], None

    def forget_decays(self) -> None:
        """Look up again what the owner keeps, which it has dropped."""
        self._kept = None

    def maps(self, owner: 'VHeat', x: Tensor, stages: Sequence[int]) -> dict[int, Tensor] | None:
        """Compute :meth:`.VHeat.raw_maps`; None where the ordinary pass is to be taken.

        Args:
            owner: The backbone.
            x: Images of shape (B, C, H, W).
            stages: Stages whose maps are wanted.
        """
        if not self.wanted or owner.training or torch.is_grad_enabled():
            return None
        if x.device.type != 'cpu' or not x.numel() or not is_plain([x]):
            return None
        dtype = compute_dtype(x)
        if not can_pack(dtype) or (dtype != x.dtype and _widens(owner)):
            return None
        found = self._find(owner, x, dtype)
        return None if found is None else _run(owner, *found, x, stages, dtype)

    def _find(
        self, owner: 'VHeat', x: Tensor, dtype: torch.dtype
    ) -> 'tuple[_Packed, list[StageDecays | None]] | None':
        parameters = _parameters(owner)
        if parameters is None:
            return None
        with self._lock:
            same_number = len(parameters) == len(self._seen)
            if not same_number or not all(map(_is_unchanged, parameters, self._seen)):
                self._drop()
                if not _can_be_packed(owner, parameters):
                    return None
                self._seen = [_state(one) for one in parameters]
            found = self._by_dtype.get(dtype)
            if found is None:
                with torch.inference_mode(False), torch.no_grad():
                    found = self._by_dtype[dtype] = _pack(owner, x, dtype)
            kept = self._kept
            if kept is None:
                kept = self._kept = owner.kept_decays(x, owner.layers)
            return found, kept


def _make(wanted: bool) -> PackedForward:
    made = PackedForward()
    made.wanted = wanted
    return made


def _widens(owner: 'VHeat') -> bool:
    """Whether a map gets float32 under autocast: by a layer scale that is no norm's."""
    arch = owner.arch
    return arch.layer_scale_init_value is not None and not arch.post_norm


def _parameters(module: nn.Module) -> list[Tensor] | None:
    """List all parameters of a module; None if one inside has a hook, which would not run."""
    found: list[Tensor] = []
    waiting = list(module._modules.values())
    while waiting:
        module = waiting.pop()
        if module is None:
            continue
        if module._forward_hooks or module._forward_pre_hooks:
            return None
        found += [one for one in module._parameters.values() if one is not None]
        waiting += module._modules.values()
    return found


def _state(tensor: Tensor) -> _State:
    """What tells whether a tensor in this CPU's memory is changed, see :func:`_is_unchanged`."""
    # What was made in inference mode has no version.
    version = None if tensor.is_inference() else tensor._version
    address, size = tensor.data_ptr(), min(_HEAD_BYTES, tensor.nbytes)
    return tensor, version, address, size, ctypes.string_at(address, size)


def _is_unchanged(tensor: Tensor, state: _State) -> bool:
    """Whether a tensor is the one of a :func:`_state`, where it was, and as it was.

    The memory is read last: at another address, or at none, it may not be this CPU's.
    """
    other, version, address, size, head = state
    return (
        tensor is other
        and tensor.data_ptr() == address
        and (version is None or tensor._version == version)
        and ctypes.string_at(address, size) == head
    )


def _can_be_packed(owner: 'VHeat', parameters: Sequence[Tensor]) -> bool:
    """Whether all modules are the model's own, and all weights real, none a piece of one.

    What adapters such as LoRA put in a module's place computes something else.
    """
    modules = (type(module).__module__ for module in owner.modules() if module is not owner)
    if not all(name.startswith(('mmvheat.', 'torch.nn.modules.')) for name in modules):
        return False
    return all(type(one) is nn.Parameter and _is_in_memory(one) for one in parameters)


def _is_in_memory(tensor: Tensor) -> bool:
    """Whether a tensor has its memory, which sharding wrappers take away, on the CPU."""
    return tensor.device.type == 'cpu' and tensor.untyped_storage().nbytes() >= tensor.nbytes


def _pack(owner: 'VHeat', x: Tensor, dtype: torch.dtype) -> _Packed:
    """Pack all weights for images of the size of ``x``; those of other sizes work, too."""
    batch, size = x.size(0), (x.size(2), x.size(3))
    stem = owner.patch_embed
    if isinstance(stem, Stem):
        stem = PackedStem(stem, (batch, *size), dtype)
    stages, downsamples = [], []
    for i, stage in enumerate(owner.layers):
        shape = batch, *owner.map_size(size, i)
        stages.append([PackedBlock(block, shape, dtype) for block in stage.blocks()])
        downsamples += [
            PackedDownsample(layer, shape, dtype) for layer in islice(stage, stage.depth, None)
        ]
    return _Packed(stem, stages, downsamples)


def _run(
    owner: 'VHeat',
    packed: _Packed,
    kept_decays: 'Sequence[StageDecays | None]',
    x: Tensor,
    stages: Sequence[int],
    dtype: torch.dtype,
) -> dict[int, Tensor]:
    last, maps = max(stages), {}
    x = packed.stem(x).to(dtype)
    with without_autocast('cpu'):
        for i, blocks in enumerate(packed.stages[: last + 1]):
            kept, embed = kept_decays[i], None
            if kept is None and owner.freq_embed is not None:
                embed = resize_freq_embed(owner.freq_embed[i], (x.size(1), x.size(2)))
            decays = [None] * len(blocks) if kept is None else kept.of(x)
            for block, decay in zip(blocks, decays, strict=True):
                x = block(x, embed, decay)
            if i in stages:
                maps[i] = x
            if i < last:
                x = packed.downsamples[i](x)
    return maps
