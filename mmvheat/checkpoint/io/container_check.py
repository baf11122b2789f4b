"""Check the container of a checkpoint, zip or legacy, before torch reads it.

torch trusts what the file says about itself: sizes, offsets, names. Here all of it is held against
the file, so that nothing is read beyond a record and nothing allocated that the file cannot fill.
"""

import io
import mmap
import struct
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .pickle_calls import CallRules
from .pickle_check import check_result, follow_pickle
from .refusal import AGAIN, Refusal, damaged

__all__ = ['LEGACY_MAGIC', 'ZIP_MAGIC', 'check_legacy', 'check_zip']

ZIP_MAGIC = b'PK\x03\x04'
# What torch.save wrote before PyTorch 1.6: a pickled magic number, then four more pickles.
LEGACY_MAGIC = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
_LEGACY_VERSION = 1001

_END = struct.Struct('<4s4H2IH')
_END_64_LOCATOR = struct.Struct('<4sIQI')
_END_64 = struct.Struct('<4sQ2H2I4Q')
_ENTRY = struct.Struct('<4s6H3I5H2I')
_LOCAL = struct.Struct('<4s5H3I2H')
_ENCRYPTED = 0x1
_RESAVE = 'save it with torch.save'


@dataclass(frozen=True, slots=True)
class _Record:
    """A file in the archive, where the directory says it is."""

    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int


def check_zip(data: mmap.mmap) -> None:
    """Check an archive of torch.save.

    Args:
        data: The whole file.

    Raises:
        Refusal: If torch should not read it.
    """
    located = list(_located(data))
    # torch takes the first one's folder, and finds names whatever their case.
    root = located[0][0].name.partition('/')[0].lower() + '/'
    if any(record.name.lower() == f'{root}constants.pkl' for record, _ in located):
        raise Refusal(f'holds no checkpoint but a TorchScript program: {_RESAVE}')
    records: dict[str, tuple[int, int]] = {}
    for record, start in located:
        name = record.name.lower()
        if name in records:
            raise Refusal(f'holds {record.name[:100]!r} twice: {AGAIN}')
        if not name.startswith(root) or '..' in name.split('/'):
            raise Refusal(
                f'holds no checkpoint that can be read ({record.name[:100]!r} in it): {_RESAVE}'
            )
        if record.flags & _ENCRYPTED:
            raise Refusal(f'is an encrypted archive: unpack it and {_RESAVE}')
        if record.method:
            raise Refusal(f'is a compressed archive, torch.save stores data as they are: {_RESAVE}')
        records[name] = (start, record.size)
        is_data = name.startswith(f'{root}data/')
        if record.crc and not is_data:  # torch.save may be told to write none
            if zlib.crc32(memoryview(data)[start : start + record.size]) != record.crc:
                raise damaged()
    if f'{root}data.pkl' not in records:
        raise Refusal(f'holds no checkpoint that can be read (no data.pkl in it): {_RESAVE}')
    start, size = records[f'{root}data.pkl']
    rules = CallRules(len(data))
    made, end = follow_pickle(data[start : start + size], rules)
    if end != size:
        raise damaged()
    for storage in rules.storages.values():
        _, size = records.get(f'{root}data/{storage.key}'.lower(), (0, -1))
        if size < storage.nbytes:
            missing = 'is missing' if size < 0 else f'has {size} bytes, not {storage.nbytes}'
            raise Refusal(f'lacks data: its storage {storage.key[:40]!r} {missing}: {AGAIN}')
    check_result(made, rules)


def check_legacy(data: mmap.mmap) -> None:
    """Check a file of PyTorch before 1.6: five pickles, then the storages one by one.

    Raises:
        Refusal: If torch should not read it.
    """
    _refuse_tar(data)
    rules = CallRules(len(data))
    _, position = follow_pickle(data, rules)
    version, position = follow_pickle(data, rules, position)
    if version != _LEGACY_VERSION:
        raise Refusal(f'is of an unknown version of torch.save ({version!r:.40}): {_RESAVE}')
    _, position = follow_pickle(data, rules, position)
    made, position = follow_pickle(data, rules, position)
    keys, position = follow_pickle(data, rules, position)
    # Each storage once: one that is left out would stay what the memory held before.
    named = [key for key in keys if isinstance(key, str)] if isinstance(keys, list) else []
    if set(named) != set(rules.storages) or not len(set(named)) == len(named) == len(keys):
        raise damaged()
    for key in named:
        storage = rules.storages[key]
        if position + 8 > len(data):
            raise damaged()
        (items,) = struct.unpack_from('<q', data, position)
        if items != storage.items:
            raise damaged()
        position += 8 + storage.nbytes
    if position != len(data):
        raise damaged()
    check_result(made, rules)


def _located(data: mmap.mmap) -> Iterator[tuple[_Record, int]]:
    """Give each record of an archive and where its bytes start, in the directory's order."""
    records, directory = _read_directory(data)
    limits = sorted(record.header for record in records)
    if not limits or limits[0] != 0:
        raise damaged()
    after = dict(zip(limits, [*limits[1:], directory], strict=True))
    if len(after) < len(records):
        raise damaged()
    for record in records:
        if record.header + _LOCAL.size > directory:
            raise damaged()
        magic, _, flags, method, _, _, _, _, _, name_size, extra_size = _LOCAL.unpack_from(
            data, record.header
        )
        start = record.header + _LOCAL.size + name_size + extra_size
        name = data[record.header + _LOCAL.size : record.header + _LOCAL.size + name_size]
        if magic != ZIP_MAGIC or name != record.name.encode():
            raise damaged()
        if (flags & _ENCRYPTED, method) != (record.flags & _ENCRYPTED, record.method):
            raise damaged()
        if start + record.packed > after[record.header]:
            raise damaged()
        yield record, start


def _read_directory(data: mmap.mmap) -> tuple[list[_Record], int]:
    """Read the central directory, and where it starts."""
    end = len(data) - _END.size
    if end < 0:
        raise damaged()
    magic, disk, first_disk, here, count, size, offset, comment = _END.unpack_from(data, end)
    if magic != b'PK\x05\x06' or comment or disk or first_disk:
        raise damaged()
    # As torch's reader does: where there is a 64-bit record it counts, needed or not.
    locator = end - _END_64_LOCATOR.size
    if locator >= 0 and data[locator : locator + 4] == b'PK\x06\x07':
        _, _, end, _ = _END_64_LOCATOR.unpack_from(data, locator)
        if end + _END_64.size != locator or data[end : end + 4] != b'PK\x06\x06':
            raise damaged()
        _, _, _, _, _, _, here, count, size, offset = _END_64.unpack_from(data, end)
    if here != count or offset + size != end or count * (_ENTRY.size + _LOCAL.size) > end:
        raise damaged()
    records, position = [], offset
    for _ in range(count):
        record, position = _read_entry(data, position, end)
        records.append(record)
    if position != end:
        raise damaged()
    return records, offset


def _read_entry(data: mmap.mmap, position: int, end: int) -> tuple[_Record, int]:
    """Read one entry of the directory, and where the next one starts."""
    if position + _ENTRY.size > end:
        raise damaged()
    fields = _ENTRY.unpack_from(data, position)
    magic, _, _, flags, method, _, _, crc, packed, size, name_size, extra_size, comment_size = (
        fields[:13]
    )
    header = fields[16]
    name_end = position + _ENTRY.size + name_size
    position_after = name_end + extra_size + comment_size
    if magic != b'PK\x01\x02' or position_after > end:
        raise damaged()
    try:
        name = data[name_end - name_size : name_end].decode()
    except UnicodeDecodeError as error:
        raise damaged() from error
    size, packed, header = _large_values(
        (size, packed, header), data[name_end : name_end + extra_size]
    )
    if (not method and packed != size) or '\0' in name or name.endswith('/') or '\\' in name:
        raise damaged()
    return _Record(name, flags, method, crc, packed, size, header), position_after


def _large_values(values: tuple[int, ...], extra: bytes) -> Iterator[int]:
    """Replace each value that did not fit into 32 bits by the one in the zip64 field."""
    large = b''
    while len(extra) >= 4:
        kind, size = struct.unpack_from('<2H', extra)
        if kind == 1:
            large = extra[4 : 4 + size]
            break
        extra = extra[4 + size :]
    for value in values:
        if value == 0xFFFFFFFF:
            if len(large) < 8:
                raise damaged()
            value, large = int.from_bytes(large[:8], 'little'), large[8:]
        yield value


def _refuse_tar(data: Any) -> None:
    """Refuse torch's oldest format, which it would unpack to a temporary folder."""
    try:
        tarfile.open(fileobj=io.BytesIO(data[: tarfile.BLOCKSIZE * 2]), mode='r:').close()
    except tarfile.TarError:
        return
    raise Refusal(f'is a tar archive, as PyTorch 0.1 wrote it: load it there and {_RESAVE}')
