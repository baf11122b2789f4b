"""What a checkpoint's pickle may call, and what each call would make.

Nothing is called. A rule looks at the arguments and gives a stand-in for what the call would make,
or None for arguments that `torch.save` never writes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from types import NoneType
from typing import Any, NoReturn

import torch

from .refusal import AGAIN, Refusal, damaged, megabytes

__all__ = [
    'CallRules', 'Global', 'Made', 'Ordered', 'Storage', 'check_global', 'is_kind', 'set_items',
    'type_name',
]  # fmt: skip

# What pickles of any size may take, in bytes; those of a larger file take three times its size.
_MEMORY_FLOOR = 32 << 20

_REBUILD = 'torch._utils._rebuild_'
_ITEM_SIZES = {
    'torch.storage.UntypedStorage': 1,
    **dict.fromkeys((f'torch.{kind}Storage' for kind in ('Byte', 'Char', 'Bool')), 1),
    **dict.fromkeys((f'torch.{kind}Storage' for kind in ('Half', 'BFloat16', 'Short')), 2),
    **dict.fromkeys((f'torch.{kind}Storage' for kind in ('Float', 'Int')), 4),
    **dict.fromkeys((f'torch.{kind}Storage' for kind in ('Double', 'Long', 'ComplexFloat')), 8),
    'torch.ComplexDoubleStorage': 16,
}
_NUMPY_CODES = ('f4', 'f8', 'i4', 'i8')
_HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
_STATISTICS = ('min', 'max', 'mean', 'current')


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle would import."""

    name: str


@dataclass(slots=True)
class Made:
    """Something that a call would make: its kind and how large it would be."""

    kind: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class Storage:
    """The memory of tensors, as the pickle declares it."""

    key: str
    item_size: int
    items: int

    @property
    def nbytes(self) -> int:
        """Size of the memory in bytes."""
        return self.item_size * self.items


class Ordered(dict):
    """An OrderedDict, Counter or CfgNode, with what a pickle would set on it besides its items."""

    __slots__ = ('attributes',)

    def __init__(self, items: dict | tuple = ()) -> None:
        super().__init__(items)
        self.attributes: list[dict] = []


@dataclass
class CallRules:
    """The rules for the calls in the pickles of one file.

    Args:
        file_size: Size of the file in bytes, by which memory is judged.

    Attributes:
        storages: The storages that the pickles refer to, by key.
        left: Memory that they may still take beside the tensors, in bytes.
    """

    file_size: int
    storages: dict[str, Storage] = field(default_factory=dict)
    left: int = 0
    _used_by_tensors: int = 0

    def __post_init__(self) -> None:
        self.left = self._allowed()

    def _allowed(self) -> int:
        return max(_MEMORY_FLOOR, 3 * self.file_size)

    def spend(self, amount: int) -> None:
        """Count memory in bytes.

        Raises:
            Refusal: If it is more than a checkpoint of this size needs.
        """
        self.left -= amount
        if self.left < 0:
            raise Refusal(
                f'would take over {megabytes(self._allowed())} of memory beside its tensors, more '
                f'than three times the file ({megabytes(self.file_size)}): save the state dict '
                'alone'
            )

    def check_overlaps(self) -> None:
        """Refuse tensors that share so much memory that copies of them would not fit.

        Raises:
            Refusal: If they do.
        """
        shared = self._used_by_tensors - sum(s.nbytes for s in self.storages.values())
        if shared > self._allowed():
            raise Refusal(
                f'holds tensors that overlap: apart they take {megabytes(self._used_by_tensors)}, '
                f'the file has {megabytes(self.file_size)}; save copies of them (tensor.clone())'
            )

    def storage(self, reference: Any) -> Storage:
        """Read ('storage', type, key, location, items) and the legacy format's view beside it.

        Raises:
            Refusal: If it is something else, or larger than the file.
        """
        match reference if isinstance(reference, tuple) else None:
            case ('storage', Global(kind), str(key), str(), items, *view) if (
                kind in _ITEM_SIZES and _is_count(items) and view in ([], [None])
            ):
                storage = Storage(key, _ITEM_SIZES[kind], items)
            case _:
                raise Refusal(
                    'refers to something other than a storage, which is not allowed in a '
                    'checkpoint: save it with torch.save'
                )
        if self.storages.setdefault(key, storage) != storage:
            raise Refusal(f'declares its storage {key!r} twice, with different sizes: {AGAIN}')
        if storage.nbytes > self.file_size:
            raise Refusal(
                f'declares a storage of {megabytes(storage.nbytes)}, the file has '
                f'{megabytes(self.file_size)}: {AGAIN}'
            )
        return storage

    def call(self, function: Any, arguments: Any) -> Any:
        """Tell what a call would make.

        Raises:
            Refusal: If it is none of those that `torch.save` writes.
        """
        name = function.name if isinstance(function, Global) else ''
        rule, counts = _CALLS.get(name, (None, ()))
        if rule is None or not isinstance(arguments, tuple) or len(arguments) not in counts:
            _refuse_call(function)
        made = rule(self, *arguments)
        if made is None:
            _refuse_call(function)
        return made

    def new(self, cls: Any, arguments: Any) -> Any:
        """Tell what ``cls.__new__`` would make.

        Raises:
            Refusal: If `torch.save` does not write that.
        """
        if arguments == () and cls == Global('yacs.config.CfgNode'):
            return Ordered()
        if arguments == () and cls == Global(_HISTORY):
            return Made('history')
        _refuse_call(cls)

    def build(self, target: Any, state: Any) -> None:
        """Check what would be set on an object that the pickle made.

        Raises:
            Refusal: If `torch.save` does not write that.
        """
        if isinstance(target, Ordered):  # a state dict's _metadata, a config's __immutable__
            good = type(state) is dict and all(isinstance(name, str) for name in state)
            target.attributes.append(state)
        else:
            match target, state:
                case Made('dtype'), (3, '<' | '>' | '|' | '=', None, None, None, -1, -1, 0):
                    good = True
                case Made('array'), (1, tuple(shape), Made('dtype', item_size), bool(), data):
                    good = self._fills_array(shape, item_size, data)
                case Made('history'), _:
                    good = _is_history(state)
                case _:
                    good = False
        if not good:
            raise Refusal(
                f'sets attributes of a {type_name(target)} that torch.save does not write, which '
                f'is not allowed in a checkpoint: {AGAIN}'
            )

    def _fills_array(self, shape: tuple, item_size: int, data: Any) -> bool:
        if not (is_kind(data, 'bytes') and _are_counts(shape) and len(shape) <= 32):
            return False
        self.spend(data.size)
        return prod(shape) * item_size == data.size

    # The rules. The arguments are whatever the pickle gives, so that types are checked, not noted.

    def _tensor(self, storage, offset, size, stride, *rest, item_size=0):
        if not (
            isinstance(storage, Storage)
            and _is_count(offset)
            and _are_counts(size)
            and _are_counts(stride)
            and len(size) == len(stride) <= 64
        ):
            return None
        item_size = item_size or storage.item_size
        items = prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        end = (last + 1 if items else offset) * item_size
        if end > storage.nbytes:
            raise Refusal(
                f'holds a tensor of {"x".join(map(str, size)) or "one value"} that reaches beyond '
                f'its storage of {storage.nbytes} bytes: {AGAIN}'
            )
        self._used_by_tensors += items * item_size
        self.spend(1000)
        return Made('Tensor') if _are_tensor_extras(*rest) else None

    def _typed_tensor(self, storage, offset, size, stride, grad, hooks, dtype, *rest):
        if not (isinstance(dtype, Global) and (item_size := _dtype_size(dtype.name))):
            return None
        return self._tensor(storage, offset, size, stride, grad, hooks, *rest, item_size=item_size)

    def _parameter(self, tensor, grad, hooks, state=None):
        extras = _are_tensor_extras(grad, hooks) and _are_attributes(state)
        self.spend(600)
        return Made('Tensor') if is_kind(tensor, 'Tensor') and extras else None

    def _tensor_with_state(self, function, cls, arguments, state):
        known = isinstance(function, Global) and function.name.startswith(_REBUILD)
        classes = (Global('torch.Tensor'), Global('torch.nn.parameter.Parameter'))
        if not known or cls not in classes or not _are_attributes(state):
            return None
        return self.call(function, arguments)

    def _ordered_dict(self, pairs=()):
        made = Ordered()
        if isinstance(pairs, list):  # as Python 2 wrote it
            for pair in pairs:
                if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                    return None
                set_items(made, list(pair))
        elif pairs != ():
            return None
        self.spend(200 * len(made))
        return made

    def _counter(self, counts=()):
        if type(counts) is not dict and counts != ():
            return None
        self.spend(200 * len(counts))
        return Ordered(counts)

    def _set(self, items):
        if not isinstance(items, list) or not all(map(_is_key, items)):
            return None
        self.spend(100 * len(items))
        return Made('set')

    def _bytes(self, text, encoding):
        size = text.size if is_kind(text, 'text') else len(text) if isinstance(text, str) else None
        if size is None or encoding not in ('latin1', 'latin-1'):
            return None
        self.spend(size)
        return Made('bytes', size)

    def _bytearray(self, *arguments):
        data = arguments[0] if len(arguments) == 1 else arguments and self._bytes(*arguments)
        if arguments and not is_kind(data, 'bytes'):
            return None
        self.spend(data.size if data else 0)
        return Made('bytearray')

    def _complex(self, real, imaginary):
        good = isinstance(real, float) and isinstance(imaginary, float)
        return Made('complex') if good else None

    def _torch_size(self, sides):
        return sides if _are_counts(sides) else None

    def _device(self, kind, index=0):
        return Made('device') if isinstance(kind, str) and _is_count(index) else None

    def _layout(self, name):
        return Made('layout') if isinstance(name, str) else None

    def _statistic(self, owner, name):
        good = owner == Global(_HISTORY) and name in _STATISTICS
        return Made(f'statistic {name}') if good else None

    def _dtype(self, code, align=False, copy=True):
        good = code in _NUMPY_CODES and align in (0, 1) and copy in (0, 1)
        return Made('dtype', int(code[1])) if good else None

    def _array(self, cls, shape, kind):
        good = cls == Global('numpy.ndarray') and shape == (0,) and is_kind(kind, 'bytes')
        return Made('array') if good else None

    def _scalar(self, dtype, data):
        good = is_kind(dtype, 'dtype') and is_kind(data, 'bytes') and data.size == dtype.size
        return Made('scalar') if good else None


# The rule of each call, and how many arguments torch.save passes.
_CALLS: dict[str, tuple[Callable, tuple[int, ...]]] = {
    f'{_REBUILD}tensor': (CallRules._tensor, (4,)),
    f'{_REBUILD}tensor_v2': (CallRules._tensor, (6, 7)),
    f'{_REBUILD}tensor_v3': (CallRules._typed_tensor, (7, 8)),
    f'{_REBUILD}parameter': (CallRules._parameter, (3,)),
    f'{_REBUILD}parameter_with_state': (CallRules._parameter, (4,)),
    'torch._tensor._rebuild_from_type_v2': (CallRules._tensor_with_state, (4,)),
    'torch.Size': (CallRules._torch_size, (1,)),
    'torch.device': (CallRules._device, (1, 2)),
    'torch.serialization._get_layout': (CallRules._layout, (1,)),
    'collections.OrderedDict': (CallRules._ordered_dict, (0, 1)),
    'collections.Counter': (CallRules._counter, (0, 1)),
    'builtins.set': (CallRules._set, (1,)),
    'builtins.bytearray': (CallRules._bytearray, (0, 1, 2)),
    'builtins.complex': (CallRules._complex, (2,)),
    'builtins.getattr': (CallRules._statistic, (2,)),
    '_codecs.encode': (CallRules._bytes, (2,)),
    'numpy.dtype': (CallRules._dtype, (1, 2, 3)),
    'numpy.core.multiarray._reconstruct': (CallRules._array, (3,)),
    'numpy._core.multiarray._reconstruct': (CallRules._array, (3,)),
    'numpy.core.multiarray.scalar': (CallRules._scalar, (2,)),
    'numpy._core.multiarray.scalar': (CallRules._scalar, (2,)),
}
# Names that only serve as arguments and values.
_VALUES = {
    'torch.Tensor', 'torch.nn.parameter.Parameter', 'numpy.ndarray', 'yacs.config.CfgNode',
    _HISTORY, *_ITEM_SIZES,
}  # fmt: skip


def check_global(name: str) -> Global:
    """Let a name through that the pickle wants to import.

    Raises:
        Refusal: If it is none of those that a checkpoint needs.
    """
    if name in _CALLS or name in _VALUES or _dtype_size(name):
        return Global(name)
    if name.startswith(_REBUILD):
        raise Refusal(
            f'holds a tensor that is sparse, quantised, without data or otherwise special '
            f'({name[:100]!r}): save dense tensors of the CPU'
        )
    raise Refusal(
        f'wants to load {name[:100]!r}, which could run code: nothing was run; if you trust its '
        'source, save the state dict alone with torch.save and convert that'
    )


def _refuse_call(function: Any) -> NoReturn:
    name = function.name if isinstance(function, Global) else f'a {type_name(function)}'
    raise Refusal(
        f'calls {name} with what torch.save never passes to it, which is not allowed in a '
        f'checkpoint: nothing was run; {AGAIN}'
    )


def set_items(target: Any, items: list[Any]) -> None:
    """Put keys and values, one after the other, into a dict.

    Raises:
        Refusal: If there is no dict, or a key is no plain value.
    """
    if not isinstance(target, dict) or len(items) % 2:
        raise damaged()
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not _is_key(key):
            raise Refusal(
                f'has a {type_name(key)} as a name in a dict, which is not allowed in a '
                'checkpoint: use strings'
            )
        target[key] = value


def _is_key(value: Any) -> bool:
    """Whether it can be a key: hashing nested or chosen values may take for ever."""
    if isinstance(value, tuple):
        return len(value) <= 16 and all(map(_is_plain, value))
    return _is_plain(value)


def _is_plain(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < 1 << 60
    return isinstance(value, (str, float, bool, NoneType, Global))


def is_kind(value: Any, kind: str) -> bool:
    """Whether a value is the stand-in for something of this kind."""
    return isinstance(value, Made) and value.kind == kind


def type_name(value: Any) -> str:
    """Name the kind of a value, or of what it stands for."""
    return value.kind if isinstance(value, Made) else type(value).__name__


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _are_counts(values: Any) -> bool:
    return isinstance(values, tuple) and all(map(_is_count, values))


def _are_tensor_extras(grad=False, hooks=None, bits=None, *more) -> bool:
    """Check requires_grad, the hooks, which nobody saves, and the bits of a lazy conjugate."""
    bits = {} if bits is None else bits
    return (
        isinstance(grad, bool)
        and (hooks is None or isinstance(hooks, Ordered) and not hooks and not hooks.attributes)
        and type(bits) is dict
        and bits.keys() <= {'conj', 'neg'}
        and all(isinstance(bit, bool) for bit in bits.values())
        and not more
    )


def _are_attributes(state: Any) -> bool:
    """Check what would be set on a tensor: nothing that a tensor has already."""
    if isinstance(state, tuple) and len(state) == 2 and state[1] is None:
        state = state[0]
    return state is None or (
        type(state) is dict
        and all(
            isinstance(name, str) and name.isidentifier() and not hasattr(torch.Tensor, name)
            for name in state
        )
    )


def _is_history(state: Any) -> bool:
    """Check the state of mmengine's HistoryBuffer, whose methods all buffers share."""
    arrays = ('_log_history', '_count_history')
    if type(state) is not dict or not state.keys() <= {'max_length', 'statistics_methods', *arrays}:
        return False
    methods = state.get('statistics_methods', {})
    return (
        _is_count(state.get('max_length', 0))
        and all(is_kind(state[name], 'array') for name in arrays if name in state)
        and type(methods) is dict
        and all(is_kind(method, f'statistic {name}') for name, method in methods.items())
    )


def _dtype_size(name: str) -> int:
    """Bytes of an element of a torch.dtype; 0 if there is no such dtype or it is quantised."""
    package, _, short = name.partition('.')
    if package != 'torch' or short.startswith('q'):
        return 0
    dtype = getattr(torch, short, None)
    return dtype.itemsize if isinstance(dtype, torch.dtype) and str(dtype) == name else 0
