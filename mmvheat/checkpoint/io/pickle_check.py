"""Check a checkpoint's pickle before torch reads it: what it would build, call and allocate.

torch's safe loading knows which functions a pickle may call, but not what it passes to them. Seen
with torch 2.11: a pickle of 683 bytes takes 950 MB; a mapped storage that is longer than its record
reads on into the next one; a log history replaces the methods of all others.

The check follows the pickle's opcodes without importing, calling or allocating anything. It lets
through what `torch.save` writes for state dicts, plain values, mmengine's log histories and yacs'
configs. `pickle_calls` says which calls these are.
"""

import re
import struct
import sys
from typing import Any

from .pickle_calls import CallRules, Made, Ordered, check_global, is_kind, set_items, type_name
from .refusal import MAX_NAME, Refusal, check_names, damaged, megabytes

__all__ = ['check_result', 'follow_pickle']

_MAX_DEPTH = 100
# Longer strings are only measured. No name, and no argument that is looked at, is longer.
_LONG_TEXT = 4096
# Python takes up to four bytes for each character of a text. Arrays are stored as Latin text.
_HUGE_TEXT = 1 << 20

# BININT1, BININT2, BININT, BINFLOAT
_NUMBERS = {
    opcode: struct.Struct(layout)
    for opcode, layout in {0x4B: '<B', 0x4D: '<H', 0x4A: '<i', 0x47: '>d'}.items()
}
# NONE, NEWTRUE, NEWFALSE, EMPTY_TUPLE
_CONSTANTS = {0x4E: None, 0x88: True, 0x89: False, 0x29: ()}
_UINT32 = struct.Struct('<I')


def follow_pickle(data: Any, rules: CallRules, start: int = 0) -> tuple[Any, int]:
    """Follow one pickle.

    Args:
        data: Bytes or a memory map.
        rules: The rules for its calls. They count storages and memory for all pickles of a file.
        start: Where the pickle starts in the data.

    Returns:
        What it would make, as plain containers with stand-ins in them, and where it ends.

    Raises:
        Refusal: If torch should not read it.
    """
    try:
        return _follow(data, rules, start)
    except (IndexError, KeyError, struct.error, UnicodeDecodeError, TypeError) as error:
        # It ends too early, takes from an empty stack, or recalls what it never stored.
        raise damaged() from error


def _follow(data: Any, rules: CallRules, position: int) -> tuple[Any, int]:
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[int, Any] = {}
    globals_: dict[str, Any] = {}
    # Memory in bytes, counted here and handed to the rules where they spend more. Each step has a
    # rough price; what calls and containers take comes on top.
    spent, limit = 0, rules.left
    uint32 = _UINT32.unpack_from
    while True:
        opcode = data[position]
        position += 1
        spent += 64
        if spent > limit:
            rules.spend(spent)
        if opcode == 0x72:  # LONG_BINPUT
            memo[uint32(data, position)[0]] = stack[-1]
            position += 4
            spent += 60
        elif opcode == 0x71:  # BINPUT
            memo[data[position]] = stack[-1]
            position += 1
            spent += 40
        elif opcode in _NUMBERS:
            number = _NUMBERS[opcode]
            stack.append(number.unpack_from(data, position)[0])
            position += number.size
        elif opcode == 0x68:  # BINGET
            stack.append(memo[data[position]])
            position += 1
        elif opcode == 0x6A:  # LONG_BINGET
            stack.append(memo[uint32(data, position)[0]])
            position += 4
        elif opcode == 0x58:  # BINUNICODE
            begin, position = position + 4, position + 4 + uint32(data, position)[0]
            text, taken = _text(_slice(data, begin, position))
            stack.append(text)
            spent += taken
        elif opcode == 0x55:  # SHORT_BINSTRING
            begin, position = position + 1, position + 1 + data[position]
            stack.append(str(_slice(data, begin, position), 'utf-8'))
        elif opcode == 0x8A:  # LONG1
            begin, position = position + 1, position + 1 + data[position]
            stack.append(int.from_bytes(_slice(data, begin, position), 'little', signed=True))
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode == 0x28:  # MARK
            marks.append(stack)
            stack = []
            spent += 60
        elif opcode == 0x74:  # TUPLE
            items, stack = stack, marks.pop()
            stack.append(tuple(items))
            spent += 8 * len(items)
        elif 0x85 <= opcode <= 0x87:  # TUPLE1, TUPLE2, TUPLE3
            count = opcode - 0x84
            if len(stack) < count:
                raise damaged()
            stack[-count:] = [tuple(stack[-count:])]
        elif opcode == 0x7D:  # EMPTY_DICT
            stack.append({})
            spent += 64
        elif opcode == 0x5D:  # EMPTY_LIST
            stack.append([])
            spent += 56
        elif opcode == 0x8F:  # EMPTY_SET
            stack.append(Made('set'))
            spent += 216
        elif opcode == 0x61:  # APPEND
            item = stack.pop()
            _append(stack[-1], [item])
        elif opcode == 0x65:  # APPENDS
            items, stack = stack, marks.pop()
            _append(stack[-1], items)
            spent += 8 * len(items)
        elif opcode == 0x73:  # SETITEM
            value, key = stack.pop(), stack.pop()
            set_items(stack[-1], [key, value])
            spent += 200
        elif opcode == 0x75:  # SETITEMS
            items, stack = stack, marks.pop()
            set_items(stack[-1], items)
            spent += 100 * len(items)
        elif opcode == 0x63:  # GLOBAL
            name, position = _read_global(data, position)
            if name not in globals_:
                globals_[name] = check_global(name)
            stack.append(globals_[name])
        elif opcode == 0x51:  # BINPERSID
            stack[-1] = rules.storage(stack[-1])
            spent += 600
        elif opcode == 0x52:  # REDUCE
            arguments = stack.pop()
            rules.spend(spent + 400)
            stack[-1] = rules.call(stack[-1], arguments)
            spent, limit = 0, rules.left
        elif opcode == 0x81:  # NEWOBJ
            arguments = stack.pop()
            stack[-1] = rules.new(stack[-1], arguments)
            spent += 500
        elif opcode == 0x62:  # BUILD
            state = stack.pop()
            rules.spend(spent + 100)
            rules.build(stack[-1], state)
            spent, limit = 0, rules.left
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
            rules.spend(spent)
            return stack.pop(), position
        else:
            raise Refusal(
                f'holds no checkpoint that can be read (pickle opcode {opcode:#04x}, which '
                'torch.save does not write): save it with torch.save, or copy or download it '
                'again'
            )


def _slice(data: Any, start: int, end: int) -> bytes:
    part = data[start:end]
    if len(part) != end - start:
        raise damaged()
    return part


def _text(encoded: bytes) -> tuple[str | Made, int]:
    """Decode a text, or only measure it if it is long, and tell what it would take in bytes."""
    if len(encoded) > _HUGE_TEXT and re.search(b'[\xc4-\xff]', encoded):
        raise Refusal(
            f'holds a text of {megabytes(len(encoded))} beyond Latin letters, which would take '
            f'four times that in memory: save the state dict alone'
        )
    text = str(encoded, 'utf-8', 'surrogatepass')
    return (Made('text', len(text)), sys.getsizeof(text)) if len(text) > _LONG_TEXT else (text, 0)


def _read_global(data: Any, position: int) -> tuple[str, int]:
    """Read two lines, module and name, and where they end."""
    lines = []
    for _ in range(2):
        end = data.find(b'\n', position, position + MAX_NAME)
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


def check_result(root: Any, rules: CallRules) -> None:
    """Check all that the pickles of a file would make: memory of tensors, nesting, names.

    Args:
        root: What the checkpoint's own pickle would make.
        rules: The rules for the calls of all its pickles.

    Raises:
        Refusal: If something would go wrong with it after reading.
    """
    rules.check_overlaps()
    if isinstance(root, dict):  # Nothing else is a checkpoint, which the reader says.
        _check_nesting(root)


def _check_nesting(root: dict) -> None:
    """Refuse what is nested too deep or in itself, and names of tensors that cannot be shown."""
    depths: dict[int, int] = {}
    entered: set[int] = set()
    todo: list[tuple[Any, bool]] = [(root, False)]
    while todo:
        node, is_done = todo.pop()
        children = _children(node)
        if is_done:
            entered.discard(id(node))
            depth = 1 + max((depths.get(id(child), 0) for child in children), default=0)
            depths[id(node)] = depth
            if depth > _MAX_DEPTH:
                raise Refusal(f'is nested over {_MAX_DEPTH} deep: save the state dict alone')
        elif id(node) in entered:
            raise Refusal(
                f'holds a {type_name(node)} that contains itself: save the state dict alone'
            )
        elif id(node) not in depths:
            entered.add(id(node))
            todo.append((node, True))
            todo.extend((child, False) for child in children)
            if isinstance(node, dict):
                check_names(k for k, v in node.items() if node is root or is_kind(v, 'Tensor'))


def _children(node: Any) -> list[Any]:
    children = list(node.values()) if isinstance(node, dict) else list(node)
    if isinstance(node, Ordered):
        children += node.attributes
    return [child for child in children if isinstance(child, (dict, list, tuple))]
