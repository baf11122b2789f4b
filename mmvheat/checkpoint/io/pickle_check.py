"""Check a checkpoint's pickle before torch reads it: what it would build, call and allocate.

torch's safe loading knows which functions a pickle may call, but not what it passes to them. Seen
with torch 2.11: 683 bytes take 950 MB, a storage longer than its record gets the file's next bytes
when it is mapped, and a log history replaces the methods of all others. This follows the pickle
without importing, calling or allocating anything and lets through what `torch.save` writes for
state dicts, plain values, mmengine's log histories and yacs' configs.
"""

import re
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, NoReturn

import torch

__all__ = ['MEMORY_FLOOR', 'PickleCheck', 'Refusal', 'Storage', 'check_names', 'damaged']

# What a pickle of any size may take, in bytes; a larger file three times its size.
MEMORY_FLOOR = 32 << 20
MAX_DEPTH = 100
_MAX_NAME = 1000
# Longer strings are only measured. No name, and no argument that is looked at, is longer.
_LONG_TEXT = 4096
# Python takes up to four bytes for each character of a text. Arrays are stored as Latin text.
_HUGE_TEXT = 1 << 20

_REBUILD = 'torch._utils._rebuild_'
_STORAGE_ITEM_SIZES = {
    f'torch.{kind}Storage': size
    for size, kinds in {
        1: ('Byte', 'Char', 'Bool'),
        2: ('Half', 'BFloat16', 'Short'),
        4: ('Float', 'Int'),
        8: ('Double', 'Long', 'ComplexFloat'),
        16: ('ComplexDouble',),
    }.items()
    for kind in kinds
} | {'torch.storage.UntypedStorage': 1}
_NUMPY_CODES = ('f4', 'f8', 'i4', 'i8')
_HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'


class Refusal(ValueError):
    """Why a file is not read; the reader puts the name of the file before it."""


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
class PickleCheck:
    """Follows the pickles of one file.

    Args:
        file_size: Size of the file in bytes, by which memory is judged.

    Attributes:
        storages: The storages it refers to, by key.
    """

    file_size: int
    storages: dict[str, Storage] = field(default_factory=dict)
    _budget: int = 0
    _used_by_tensors: int = 0

    def __post_init__(self) -> None:
        self._budget = self._allowed()

    def follow(self, data: Any, start: int = 0) -> tuple[Any, int]:
        """Follow one pickle.

        Args:
            data: Bytes or a memory map.
            start: Where the pickle starts in them.

        Returns:
            What it would make, as plain containers with stand-ins in them, and where it ends.

        Raises:
            Refusal: If torch should not read it.
        """
        try:
            return self._follow(data, start)
        except (IndexError, KeyError, struct.error, UnicodeDecodeError, TypeError) as error:
            # It ends too early, takes from an empty stack, or recalls what it never stored.
            raise damaged() from error

    def finish(self, root: Any) -> None:
        """Check the whole of what was made: its nesting, its names, the memory of its tensors.

        Raises:
            Refusal: If something would go wrong with it after reading.
        """
        shared = self._used_by_tensors - sum(s.nbytes for s in self.storages.values())
        if shared > self._allowed():
            raise Refusal(
                f'holds tensors that overlap: apart they take {_mb(self._used_by_tensors)}, the '
                f'file has {_mb(self.file_size)}; save copies of them (tensor.clone())'
            )
        if isinstance(root, dict):  # Nothing else is a checkpoint, which the reader says.
            _check_nesting(root)

    def _follow(self, data: Any, start: int) -> tuple[Any, int]:
        position = start
        stack: list[Any] = []
        marks: list[list[Any]] = []
        memo: dict[int, Any] = {}
        globals_: dict[str, Global] = {}
        spent = 0
        limit = self._budget
        uint32 = _UINT32.unpack_from
        while True:
            opcode = data[position]
            position += 1
            # A rough price for every step; what calls and containers cost comes on top.
            spent += 64
            if spent > limit:
                self._spend(spent)
            if opcode == 0x72:  # LONG_BINPUT
                (index,) = uint32(data, position)
                memo[index] = stack[-1]
                position += 4
                spent += 60
            elif opcode == 0x4B:  # BININT1
                stack.append(data[position])
                position += 1
            elif opcode == 0x68:  # BINGET
                stack.append(memo[data[position]])
                position += 1
            elif opcode == 0x71:  # BINPUT
                memo[data[position]] = stack[-1]
                position += 1
                spent += 40
            elif opcode == 0x58:  # BINUNICODE
                (size,) = uint32(data, position)
                end = position + 4 + size
                text = _slice(data, position + 4, end)
                if len(text) > _HUGE_TEXT and re.search(b'[\xc4-\xff]', text):
                    raise Refusal(
                        f'holds a text of {_mb(len(text))} beyond Latin letters, which would take '
                        f'four times that in memory: save the state dict alone'
                    )
                text = str(text, 'utf-8', 'surrogatepass')
                if len(text) > _LONG_TEXT:
                    spent += sys.getsizeof(text)
                    text = Made('text', len(text))
                stack.append(text)
                position = end
            elif opcode == 0x28:  # MARK
                marks.append(stack)
                stack = []
                spent += 60
            elif opcode == 0x74:  # TUPLE
                items, stack = stack, marks.pop()
                stack.append(tuple(items))
                spent += 8 * len(items)
            elif opcode == 0x85:  # TUPLE1
                stack[-1] = (stack[-1],)
            elif opcode == 0x86:  # TUPLE2
                stack[-2:] = [(stack[-2], stack[-1])]
            elif opcode == 0x87:  # TUPLE3
                stack[-3:] = [(stack[-3], stack[-2], stack[-1])]
            elif opcode == 0x52:  # REDUCE
                arguments = stack.pop()
                self._spend(spent + 400)
                stack[-1] = self._call(stack[-1], arguments)
                spent, limit = 0, self._budget
            elif opcode == 0x51:  # BINPERSID
                stack[-1] = self._storage(stack[-1])
                spent += 600
            elif opcode == 0x29:  # EMPTY_TUPLE
                stack.append(())
            elif opcode == 0x89:  # NEWFALSE
                stack.append(False)
            elif opcode == 0x6A:  # LONG_BINGET
                (index,) = uint32(data, position)
                stack.append(memo[index])
                position += 4
            elif opcode == 0x4D:  # BININT2
                stack.append(_take('<H', data, position))
                position += 2
            elif opcode == 0x4A:  # BININT
                stack.append(_take('<i', data, position))
                position += 4
            elif opcode == 0x8A:  # LONG1
                end = position + 1 + data[position]
                stack.append(int.from_bytes(_slice(data, position + 1, end), 'little', signed=True))
                position = end
            elif opcode == 0x47:  # BINFLOAT
                stack.append(_take('>d', data, position))
                position += 8
            elif opcode == 0x55:  # SHORT_BINSTRING
                end = position + 1 + data[position]
                stack.append(str(_slice(data, position + 1, end), 'utf-8'))
                position = end
            elif opcode == 0x7D:  # EMPTY_DICT
                stack.append({})
                spent += 64
            elif opcode == 0x5D:  # EMPTY_LIST
                stack.append([])
                spent += 56
            elif opcode == 0x8F:  # EMPTY_SET
                stack.append(Made('set'))
                spent += 216
            elif opcode == 0x4E:  # NONE
                stack.append(None)
            elif opcode == 0x88:  # NEWTRUE
                stack.append(True)
            elif opcode == 0x61:  # APPEND
                item = stack.pop()
                _append(stack[-1], [item])
            elif opcode == 0x65:  # APPENDS
                items, stack = stack, marks.pop()
                _append(stack[-1], items)
                spent += 8 * len(items)
            elif opcode == 0x73:  # SETITEM
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value])
                spent += 200
            elif opcode == 0x75:  # SETITEMS
                items, stack = stack, marks.pop()
                _set_items(stack[-1], items)
                spent += 100 * len(items)
            elif opcode == 0x63:  # GLOBAL
                name, position = _read_global(data, position)
                if name not in globals_:
                    globals_[name] = _checked_global(name)
                stack.append(globals_[name])
            elif opcode == 0x81:  # NEWOBJ
                arguments, cls = stack.pop(), stack.pop()
                if cls == Global('yacs.config.CfgNode') and arguments == ():
                    stack.append(Ordered())
                elif cls == Global(_HISTORY) and arguments == ():
                    stack.append(Made('history'))
                else:
                    _refuse_call(cls)
                spent += 500
            elif opcode == 0x62:  # BUILD
                state = stack.pop()
                self._spend(spent + 100)
                self._build(stack[-1], state)
                spent, limit = 0, self._budget
            elif opcode == 0x80:  # PROTO
                protocol = data[position]
                position += 1
                if protocol > 5:
                    raise damaged()
                if protocol > 2:
                    raise Refusal(
                        f'holds no checkpoint that can be read (pickle protocol {protocol}, '
                        'expected 2): save it with torch.save'
                    )
            elif opcode == 0x2E:  # STOP
                self._spend(spent)
                return stack.pop(), position
            else:
                raise Refusal(
                    f'holds no checkpoint that can be read (pickle opcode {opcode:#04x}, which '
                    'torch.save does not write): save it with torch.save, or copy or download it '
                    'again'
                )

    def _allowed(self) -> int:
        return max(MEMORY_FLOOR, 3 * self.file_size)

    def _spend(self, amount: int) -> None:
        self._budget -= amount
        if self._budget < 0:
            raise Refusal(
                f'would take over {_mb(self._allowed())} of memory beside its tensors, more than '
                f'three times the file ({_mb(self.file_size)}): save the state dict alone'
            )

    def _storage(self, reference: Any) -> Storage:
        """Read ('storage', type, key, location, items) and the legacy format's view beside it."""
        match reference if isinstance(reference, tuple) else None:
            case ('storage', Global(kind), str(key), str(), items, *view) if (
                kind in _STORAGE_ITEM_SIZES and _is_count(items) and view in ([], [None])
            ):
                storage = Storage(key, _STORAGE_ITEM_SIZES[kind], items)
            case _:
                raise Refusal(
                    'refers to something other than a storage, which is not allowed in a '
                    'checkpoint: save it with torch.save'
                )
        known = self.storages.setdefault(key, storage)
        if known != storage:
            raise Refusal(f'declares its storage {key!r} twice, with different sizes: {_AGAIN}')
        if storage.nbytes > self.file_size:
            raise Refusal(
                f'declares a storage of {_mb(storage.nbytes)}, the file has {_mb(self.file_size)}: '
                f'{_AGAIN}'
            )
        return storage

    def _call(self, function: Any, arguments: Any) -> Any:
        """Tell what a call would make.

        Raises:
            Refusal: If it is none of those that `torch.save` writes.
        """
        name = function.name if isinstance(function, Global) else ''
        if not isinstance(arguments, tuple) or name not in _CALLS:
            _refuse_call(function)
        expected = _ARGUMENTS.get(name, (1,))
        made = _CALLS[name](self, *arguments) if len(arguments) in expected else None
        if made is None:
            _refuse_call(function)
        return made

    # Each of these gives what the call makes, or None for arguments that torch.save never writes.

    def _tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any, item_size: int = 0
    ) -> Made | None:
        if not (
            isinstance(storage, Storage)
            and _is_count(offset)
            and _are_counts(size)
            and _are_counts(stride)
            and len(size) == len(stride) <= 64
        ):
            return None
        item_size = item_size or storage.item_size
        items = 1
        for side in size:
            items *= side
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        end = (last + 1 if items else offset) * item_size
        if end > storage.nbytes:
            raise Refusal(
                f'holds a tensor of {"x".join(map(str, size)) or "one value"} that reaches beyond '
                f'its storage of {storage.nbytes} bytes: {_AGAIN}'
            )
        self._used_by_tensors += items * item_size
        self._spend(1000)
        return Made('Tensor') if _are_tensor_extras(*rest) else None

    def _typed_tensor(self, storage, offset, size, stride, grad, hooks, dtype, *rest):
        if not (isinstance(dtype, Global) and (item_size := _dtype_size(dtype.name))):
            return None
        return self._tensor(storage, offset, size, stride, grad, hooks, *rest, item_size=item_size)

    def _parameter(self, tensor, grad, hooks, state=None):
        good = (
            _is_kind(tensor, 'Tensor')
            and _are_tensor_extras(grad, hooks)
            and _are_attributes(state)
        )
        self._spend(600)
        return Made('Tensor') if good else None

    def _tensor_with_state(self, function, cls, arguments, state):
        known = isinstance(function, Global) and function.name.startswith(_REBUILD)
        classes = (Global('torch.Tensor'), Global('torch.nn.parameter.Parameter'))
        if not known or cls not in classes or not _are_attributes(state):
            return None
        return self._call(function, arguments)

    def _ordered_dict(self, pairs=()):
        made = Ordered()
        if isinstance(pairs, list):  # as Python 2 wrote it
            for pair in pairs:
                if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                    return None
                _set_items(made, list(pair))
        elif pairs != ():
            return None
        self._spend(200 * len(made))
        return made

    def _counter(self, counts=()):
        if type(counts) is not dict and counts != ():
            return None
        self._spend(200 * len(counts))
        return Ordered(counts)

    def _set(self, items):
        if not isinstance(items, list) or not all(_is_key(item) for item in items):
            return None
        self._spend(100 * len(items))
        return Made('set')

    def _bytes(self, text, encoding):
        size = text.size if isinstance(text, Made) and text.kind == 'text' else None
        size = len(text) if isinstance(text, str) else size
        if size is None or encoding not in ('latin1', 'latin-1'):
            return None
        self._spend(size)
        return Made('bytes', size)

    def _bytearray(self, *arguments):
        data = arguments[0] if len(arguments) == 1 else arguments and self._bytes(*arguments)
        if arguments and not _is_kind(data, 'bytes'):
            return None
        self._spend(data.size if data else 0)
        return Made('bytearray')

    def _complex(self, real, imaginary):
        good = isinstance(real, float) and isinstance(imaginary, float)
        return Made('complex') if good else None

    def _torch_size(self, sides):
        return sides if isinstance(sides, tuple) and _are_counts(sides) else None

    def _device(self, kind, index=0):
        return Made('device') if isinstance(kind, str) and _is_count(index) else None

    def _layout(self, name):
        return Made('layout') if isinstance(name, str) else None

    def _statistic(self, owner, name):
        good = owner == Global(_HISTORY) and name in ('min', 'max', 'mean', 'current')
        return Made(f'statistic {name}') if good else None

    def _dtype(self, code, align=False, copy=True):
        good = code in _NUMPY_CODES and align in (0, 1) and copy in (0, 1)
        return Made('dtype', int(code[1])) if good else None

    def _array(self, cls, shape, kind):
        good = cls == Global('numpy.ndarray') and shape == (0,) and _is_kind(kind, 'bytes')
        return Made('array') if good else None

    def _scalar(self, dtype, data):
        good = _is_kind(dtype, 'dtype') and _is_kind(data, 'bytes') and data.size == dtype.size
        return Made('scalar') if good else None

    def _build(self, target: Any, state: Any) -> None:
        """Check what would be set on an object that the pickle made."""
        if isinstance(target, Ordered):  # a state dict's _metadata, a config's __immutable__
            good = type(state) is dict and all(isinstance(name, str) for name in state)
            target.attributes.append(state)
        elif not isinstance(target, Made):
            good = False
        elif target.kind == 'dtype':
            match state:
                case (3, '<' | '>' | '|' | '=', None, None, None, -1, -1, 0):
                    good = True
                case _:
                    good = False
        elif target.kind == 'array':
            good = self._array_state_is_good(state)
        else:
            good = target.kind == 'history' and _is_history(state)
        if not good:
            what = target.kind if isinstance(target, Made) else _type_name(target)
            raise Refusal(
                f'sets attributes of a {what} that torch.save does not write, which is not '
                f'allowed in a checkpoint: {_AGAIN}'
            )

    def _array_state_is_good(self, state: Any) -> bool:
        match state:
            case (1, tuple(shape), Made('dtype', item_size), bool(), Made('bytes', size)):
                pass
            case _:
                return False
        if not _are_counts(shape) or len(shape) > 32:
            return False
        items = 1
        for side in shape:
            items *= side
        self._spend(size)
        return items * item_size == size


_CALLS: dict[str, Callable] = {
    f'{_REBUILD}tensor': PickleCheck._tensor,
    f'{_REBUILD}tensor_v2': PickleCheck._tensor,
    f'{_REBUILD}tensor_v3': PickleCheck._typed_tensor,
    f'{_REBUILD}parameter': PickleCheck._parameter,
    f'{_REBUILD}parameter_with_state': PickleCheck._parameter,
    'torch._tensor._rebuild_from_type_v2': PickleCheck._tensor_with_state,
    'torch.Size': PickleCheck._torch_size,
    'torch.device': PickleCheck._device,
    'torch.serialization._get_layout': PickleCheck._layout,
    'collections.OrderedDict': PickleCheck._ordered_dict,
    'collections.Counter': PickleCheck._counter,
    'builtins.set': PickleCheck._set,
    'builtins.bytearray': PickleCheck._bytearray,
    'builtins.complex': PickleCheck._complex,
    'builtins.getattr': PickleCheck._statistic,
    '_codecs.encode': PickleCheck._bytes,
    'numpy.dtype': PickleCheck._dtype,
    'numpy.core.multiarray._reconstruct': PickleCheck._array,
    'numpy._core.multiarray._reconstruct': PickleCheck._array,
    'numpy.core.multiarray.scalar': PickleCheck._scalar,
    'numpy._core.multiarray.scalar': PickleCheck._scalar,
}
# How many arguments torch.save passes.
_ARGUMENTS = {
    f'{_REBUILD}tensor': (4,),
    f'{_REBUILD}tensor_v2': (6, 7),
    f'{_REBUILD}tensor_v3': (7, 8),
    f'{_REBUILD}parameter': (3,),
    f'{_REBUILD}parameter_with_state': (4,),
    'torch._tensor._rebuild_from_type_v2': (4,),
    'torch.device': (1, 2),
    'collections.OrderedDict': (0, 1),
    'collections.Counter': (0, 1),
    'builtins.bytearray': (0, 1, 2),
    'builtins.complex': (2,),
    'builtins.getattr': (2,),
    '_codecs.encode': (2,),
    'numpy.dtype': (1, 2, 3),
    'numpy.core.multiarray._reconstruct': (3,),
    'numpy._core.multiarray._reconstruct': (3,),
    'numpy.core.multiarray.scalar': (2,),
    'numpy._core.multiarray.scalar': (2,),
}
# Names that only serve as arguments and values.
_VALUES = {
    'torch.Tensor',
    'torch.nn.parameter.Parameter',
    'numpy.ndarray',
    'yacs.config.CfgNode',
    _HISTORY,
    *_STORAGE_ITEM_SIZES,
}
_AGAIN = 'copy or download it again'


def _refuse_call(function: Any) -> NoReturn:
    name = function.name if isinstance(function, Global) else f'a {_type_name(function)}'
    raise Refusal(
        f'calls {name} with what torch.save never passes to it, which is not allowed in a '
        f'checkpoint: nothing was run; {_AGAIN}'
    )


def _checked_global(name: str) -> Global:
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


def _read_global(data: Any, position: int) -> tuple[str, int]:
    """Read two lines, module and name, and where they end."""
    lines = []
    for _ in range(2):
        end = data.find(b'\n', position, position + _MAX_NAME)
        if end < 0:
            raise damaged()
        lines.append(data[position:end].decode())
        position = end + 1
    module, name = lines
    # As Python 2 called it, whose names torch.save still writes.
    return f'{"builtins" if module == "__builtin__" else module}.{name}', position


def _append(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise damaged()
    target.extend(items)


def _set_items(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict) or len(items) % 2:
        raise damaged()
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not _is_key(key):
            raise Refusal(
                f'has a {_type_name(key)} as a name in a dict, which is not allowed in a '
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


def _is_kind(value: Any, kind: str) -> bool:
    return isinstance(value, Made) and value.kind == kind


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _are_counts(values: Any) -> bool:
    return isinstance(values, tuple) and all(map(_is_count, values))


def _are_tensor_extras(
    grad: Any = False, hooks: Any = None, metadata: Any = None, *more: Any
) -> bool:
    """Check requires_grad, the hooks, which nobody saves, and the bits of a lazy conjugate."""
    bits = {} if metadata is None else metadata
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
    if state is None:
        return True
    return type(state) is dict and all(
        isinstance(name, str) and name.isidentifier() and not hasattr(torch.Tensor, name)
        for name in state
    )


def _is_history(state: Any) -> bool:
    """Check the state of mmengine's HistoryBuffer, whose methods all buffers share."""
    if type(state) is not dict or not state.keys() <= {
        'max_length',
        '_log_history',
        '_count_history',
        'statistics_methods',
    }:
        return False
    arrays = [state[name] for name in ('_log_history', '_count_history') if name in state]
    methods = state.get('statistics_methods', {})
    return (
        _is_count(state.get('max_length', 0))
        and all(_is_kind(array, 'array') for array in arrays)
        and type(methods) is dict
        and all(_is_kind(method, f'statistic {name}') for name, method in methods.items())
    )


def _dtype_size(name: str) -> int:
    """Bytes of an element of a torch.dtype; 0 if there is no such dtype or it is quantised."""
    package, _, short = name.partition('.')
    if package != 'torch' or short.startswith('q'):
        return 0
    dtype = getattr(torch, short, None)
    return dtype.itemsize if isinstance(dtype, torch.dtype) and str(dtype) == name else 0


def _check_nesting(root: Any) -> None:
    """Refuse what is nested too deep or in itself, and names of tensors that cannot be shown."""
    depths: dict[int, int] = {}
    entered: set[int] = set()
    todo: list[tuple[Any, bool]] = [(root, False)]
    while todo:
        node, is_done = todo.pop()
        children = _children(node)
        if is_done:
            entered.discard(id(node))
            depth = depths[id(node)] = 1 + max(
                (depths.get(id(child), 0) for child in children), default=0
            )
            if depth > MAX_DEPTH:
                raise Refusal(f'is nested over {MAX_DEPTH} deep: save the state dict alone')
        elif id(node) in entered:
            raise Refusal(
                f'holds a {_type_name(node)} that contains itself: save the state dict alone'
            )
        elif id(node) not in depths:
            entered.add(id(node))
            todo.append((node, True))
            todo.extend((child, False) for child in children)
            if isinstance(node, dict):
                check_names(k for k, v in node.items() if node is root or _is_kind(v, 'Tensor'))


def _children(node: Any) -> list[Any]:
    children = list(node.values()) if isinstance(node, dict) else list(node)
    if isinstance(node, Ordered):
        children += node.attributes
    return [child for child in children if isinstance(child, (dict, list, tuple))]


def check_names(names: Iterable[Any]) -> None:
    """Refuse names that a message, a log or a table cannot show.

    Raises:
        Refusal: If there is one.
    """
    for name in names:
        if isinstance(name, str) and not (len(name) <= _MAX_NAME and name.isprintable()):
            raise Refusal(
                f'holds the name {name[:60]!r}, which is too long or cannot be printed: '
                'rename it and save again'
            )


def damaged() -> Refusal:
    """Say that a file is incomplete or was changed on its way."""
    return Refusal(f'is truncated or damaged: {_AGAIN}')


_UINT32 = struct.Struct('<I')


def _slice(data: Any, start: int, end: int) -> bytes:
    part = data[start:end]
    if len(part) != end - start:
        raise damaged()
    return part


def _take(layout: str, data: Any, position: int) -> Any:
    return struct.unpack_from(layout, data, position)[0]


def _mb(size: int) -> str:
    return f'{size / 1e6:,.1f} MB'


def _type_name(value: Any) -> str:
    return value.kind if isinstance(value, Made) else type(value).__name__
