"""The mutated checkpoints, family by family, the same in every run."""

import io
import json
import math
import os
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from checkpoint.fuzz_bases import (
    bases,
    mmengine_checkpoint,
    model,
    saved,
    valid_files,
)
from checkpoint.fuzz_pickles import (
    ENCODINGS,
    GADGETS,
    bombs,
    checkpoint_pickle,
    filled,
    odd_calls,
    py,
)
from mmengine.logging import HistoryBuffer
from safetensors.torch import save as save_safetensors

__all__ = ['CANARY', 'FAMILIES', 'Case', 'cases']

# Where the gadgets' calls would leave a trace, in the folder of the case.
CANARY = 'canary'
_LEGACY_HEAD = (
    b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.'
    b'\x80\x02}(X\x10\x00\x00\x00protocol_versionM\xe9\x03X\r\x00\x00\x00little_endian\x88u.'
)


@dataclass(frozen=True)
class Case:
    """One checkpoint.

    Attributes:
        name: Family, number and what was done; by it the case is found again.
        make: Puts it into a folder and returns its path.
        must: 'load', 'fail', or '' where either may be right.
    """

    name: str
    make: Callable[[Path], Path]
    must: str = ''


Data = bytes | Callable[[], bytes]
# What was done, the file's name or how to make it, its content, and what must come of it.
Made = tuple[str, str | Callable[[Path], Path], Data | None, str]


def _file(name: str, data: Data) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data() if callable(data) else data)
        return path

    return make


# Archives and legacy files put together by hand.


def archive(records: dict[str, bytes], root: str = 'archive', **options) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', **options) as file:
        for name, data in records.items():
            file.writestr(f'{root}/{name}', data)
    return buffer.getvalue()


def records_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name.partition('/')[2]: file.read(name) for name in file.namelist()}


def in_archive(pickled: bytes) -> bytes:
    """An archive of the pickle and a storage of four floats."""
    data = struct.pack('<4f', 1, 2, 3, 4)
    return archive({'data.pkl': pickled, 'byteorder': b'little', 'data/0': data, 'version': b'3\n'})


def in_legacy(pickled: bytes) -> bytes:
    tail = b'\x80\x02]X\x01\x00\x00\x000a.' + struct.pack('<q4f', 4, 1, 2, 3, 4)
    return _LEGACY_HEAD + _legacy_references(pickled) + tail


def _legacy_references(pickled: bytes) -> bytes:
    """The older form of a reference to a storage has one more entry, always None."""
    return pickled.replace(b'J\x04\x00\x00\x00tQ', b'J\x04\x00\x00\x00NtQ')


def safetensors(header: object, data: bytes = b'', length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(text) if length is None else length) + text + data


# The families: each gives what was done, the file's name, its bytes, and what must come of it.


def valid(rng: random.Random) -> Iterator[Made]:
    for name, data in valid_files().items():
        yield name, name, data, 'load'
    renamed = bases()
    yield 'safetensors by another name', 'weights.bin', renamed['bare.safetensors'], 'load'
    yield 'zip by another name', 'weights', renamed['bare.pth'], 'load'
    for root in ('epoch_12', 'é', 'a b', 'DATA', 'a\nb'):
        data = archive(records_of(renamed['published.pth']), root)
        yield f'folder {root!r} in it', 'a.pth', data, 'load'
    yield 'by hand', 'a.pth', in_archive(checkpoint_pickle(py(1))), 'load'
    yield 'old by hand', 'a.pth', in_legacy(checkpoint_pickle(py(1))), 'load'
    big = records_of(saved({'model': {'w': torch.arange(4.0)}}))
    big['byteorder'], big['data/0'] = b'big', struct.pack('>4f', 0, 1, 2, 3)
    yield 'byteorder big', 'a.pth', archive(big), 'load'


def _boundaries(data: bytes) -> list[int]:
    """Where something starts or ends in an archive or a pickle stream."""
    marks = [
        b'PK\x03\x04',
        b'PK\x01\x02',
        b'PK\x07\x08',
        b'PK\x05\x06',
        b'PK\x06\x06',
        b'PK\x06\x07',
    ]
    found = []
    for mark in [*marks, b'.\x80\x02', b'tQ', b'ctorch']:
        position = data.find(mark)
        while position >= 0:
            found.append(position)
            position = data.find(mark, position + 1)
    return sorted(found)


def truncated(rng: random.Random) -> Iterator[Made]:
    for name, data in bases().items():
        near = _boundaries(data)
        chosen = rng.sample(near, min(25, len(near)))
        ends = {0, 1, 7, 8, 9, len(data) - 1, len(data) - 2, len(data) - 22, len(data) // 2}
        ends |= {end + shift for end in chosen for shift in (-1, 0, 3, 30)}
        ends |= {rng.randrange(len(data)) for _ in range(40)}
        if name.endswith('.safetensors'):
            ends |= {rng.randrange(1, 3000) for _ in range(60)}
        for end in sorted(end for end in ends if 0 <= end < len(data)):
            yield f'{name} at {end}', name, data[:end], 'fail'
        for _ in range(6):
            start, size = rng.randrange(1, len(data)), rng.randrange(1, 200)
            cut = data[:start] + data[start + size :]
            yield f'{name} without {size} from {start}', name, cut, 'fail'


def flipped(rng: random.Random) -> Iterator[Made]:
    """A bit, a byte or several, anywhere, as a disk or a network does."""
    for name, data in bases().items():
        for _ in range(75):
            changed, where = bytearray(data), []
            for _ in range(rng.choice((1, 1, 1, 2, 16))):
                position = rng.randrange(len(data))
                where.append(position)
                changed[position] ^= rng.choice((1 << rng.randrange(8), 0xFF, 0x20))
            yield f'{name} at {where[0]}', name, bytes(changed), ''
        for _ in range(10):
            start, size = rng.randrange(len(data)), rng.randrange(1, 60)
            noise = rng.randbytes(size)
            more = data[:start] + noise + data[start:]
            yield f'{name} with noise at {start}', name, more, 'fail'
            other = data[:start] + noise + data[start + size :]
            yield f'{name} noise over {start}', name, other, ''
            zeros = data[:start] + bytes(len(data) - start)
            yield f'{name} zeros from {start}', name, zeros, ''


def flipped_directory(rng: random.Random) -> Iterator[Made]:
    """Bytes of local headers, the central directory and the end, where sizes and offsets are."""
    for name in ('published.pth', 'mmengine.pth'):
        data = bases()[name]
        headers = [p for p in _boundaries(data) if data[p : p + 2] == b'PK']
        for _ in range(60):
            position = rng.choice(headers) + rng.randrange(46)
            if position < len(data):
                changed = bytearray(data)
                changed[position] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
                yield f'{name} at {position}', name, bytes(changed), ''


def flipped_pickle(rng: random.Random) -> Iterator[Made]:
    """Bytes of the pickle with its checksum made to fit, so that the pickle's reader meets them."""
    for name in ('published.pth', 'mmengine.pth', 'odd tensors.pth', 'plain values.pth'):
        records = records_of(valid_files()[name])
        for _ in range(75):
            changed = bytearray(records['data.pkl'])
            position = rng.randrange(len(changed))
            how = rng.randrange(4)
            if how < 2:
                changed[position] = rng.choice((*b'}])NR\x81bQ0.et(sua\x85\x86\x87hqK', 0, 0xFF))
            elif how == 2:
                changed[position] ^= 1 << rng.randrange(8)
            else:
                del changed[position : position + rng.randrange(1, 9)]
            mutated = records | {'data.pkl': bytes(changed)}
            yield f'{name} at {position}', name, partial(archive, mutated), ''


def contents(rng: random.Random) -> Iterator[Made]:
    """Weights that are not what a model's should be, metadata of every kind."""
    keys = list(model())
    embed, to_k = 'freq_embed.0', 'layers.0.0.op.to_k.0.weight'
    dtypes = (
        'float16 bfloat16 float64 int8 uint8 int64 bool complex64 complex128 float8_e4m3fn '
        'float8_e5m2 uint16'
    ).split()
    shapes = [(), (0,), (1,), (16,), (16, 16), (16, 16, 2, 1), (1, 1, 2), (0, 16, 2), (16, 16, 0),
              (16, 16, 3), (5, 7, 2), (16, 16, 200), (3000, 1, 2), (1,) * 12, (2, 16,
              16)]  # fmt: skip

    def changed(how: Callable[[dict], None], top: str = 'model') -> Callable[[], bytes]:
        def file() -> bytes:
            state = model()
            how(state)
            return saved({top: state, 'epoch': 1} if top else state)

        return file

    for key in (embed, 'freq_embed.1', to_k, 'layers.0.0.op.to_k.0.bias', 'outnorm1.weight',
                'patch_embed.conv1.weight'):  # fmt: skip
        for dtype in dtypes:
            data = changed(lambda s, k=key, d=dtype: s.update({k: s[k].to(getattr(torch, d))}))
            yield f'{key} as {dtype}', 'a.pth', data, ''
        for shape in shapes:
            data = changed(lambda s, k=key, d=shape: s.update({k: torch.ones(d)}))
            yield f'{key} of {shape}', 'a.pth', data, ''
        for value in (math.nan, math.inf, -math.inf, 1e38, -1e-45):
            data = changed(lambda s, k=key, v=value: s[k].fill_(v))
            yield f'{key} full of {value}', 'a.pth', data, 'load'
        for other in (None, 5, 'text', [], {}, [1.0], {'a': torch.ones(1)}, torch.nn.Parameter):
            if other is torch.nn.Parameter:
                data = changed(lambda s, k=key: s.update({k: torch.nn.Parameter(s[k])}))
            else:
                data = changed(lambda s, k=key, o=other: s.update({k: o}))
            yield f'{key} as {type(other).__name__}', 'a.pth', data, ''
    for key in rng.sample(keys, 16):
        yield f'without {key}', 'a.pth', changed(lambda s, k=key: s.pop(k)), ''
        yield f'bare without {key}', 'a.pth', changed(lambda s, k=key: s.pop(k), ''), ''
    for name in ('freq_embed.2', 'freq_embed.x', 'freq_embed.01', 'freq_embed', 'layers.9.0.op.x',
                 'layers.0.0.op.k_exp', 'classifier.7.weight', 'classifier.0.weight',
                 'head.fc.weight',
                 'module.freq_embed.0', 'a.freq_embed.0', '', '.', 'é', 'a b', 'x' * 900,
                 'backbone.freq_embed.0', '../x', '%s{}', "'"):  # fmt: skip
        data = changed(lambda s, n=name: s.update({n: torch.ones(2)}))
        yield f'also {name[:30]!r}', 'a.pth', data, ''
    for name in ('a\nb', '\t', '\x1b[0m', 'x' * 2000, '\u2028'):
        data = changed(lambda s, n=name: s.update({n: torch.ones(2)}))
        yield f'also {name[:30]!r}', 'a.pth', data, 'fail'
    for prefix in ('module.', '_orig_mod.', 'backbone.', 'module.backbone.', 'ema_model.module.',
                   'a.b.c.', '..', 'model.'):  # fmt: skip
        yield f'prefix {prefix}', 'a.pth', partial(saved, {'state_dict': model(prefix)}), ''
    for meta in (None, 5, 'text', [], {'epoch': None}, {'dataset_meta': None}, {'dataset_meta': 5},
                 {1: 2}, torch.ones(2), {'time': float('nan')}, {'a': {'b': [{}] * 3}}, True,
                 {'dataset_meta': {'classes': None, 'palette': [[1]]}}):  # fmt: skip
        data = partial(saved, {'state_dict': model(), 'meta': meta})
        yield f'meta {meta!r:.20}', 'a.pth', data, ''
    for top in (None, 5, [], 'model', {}, {'model': None}, {'model': []}, {'model': {}},
                {1: {2: 3}},
                {'state_dict': {}}, {'model': {'w': torch.ones(2)}}, {'model': {1: torch.ones(2)}},
                {'model': model(), 'state_dict': 5}, {None: model()}, {'other': model()},
                [model()], (model(),), torch.ones(2), {'model': {'model': model()}},
                {'state_dict': {'state_dict': model()}}, {'model_ema': model(), 'model': []},
                {'a': model(), 'b': model()}, {'model': [model()]}):  # fmt: skip
        yield f'top {str(top)[:24]!r}', 'a.pth', partial(saved, top), ''
    whole = mmengine_checkpoint()
    for name in list(whole):
        for value in (None, 5, [], {}, torch.ones(1)):
            data = partial(saved, whole | {name: value})
            yield f'{name} as {type(value).__name__}', 'epoch_1.pth', data, ''


def gadgets(rng: random.Random) -> Iterator[Made]:
    """Every gadget in two ways of calling it, every way of calling with the best-known ones."""
    chosen = [(gadget, e) for gadget in GADGETS for e in rng.sample(sorted(ENCODINGS), 1)]
    known = [('posix', 'system', ('COMMAND',)), ('builtins', 'exec', ("open('CANARY', 'w')",))]
    known += [('checkpoint.fuzz_canary', 'fire', ('CANARY',)), ('builtins', 'print', ('CANARY',))]
    chosen += [(gadget, encoding) for gadget in known for encoding in ENCODINGS]
    for (module, function, arguments), encoding in chosen:
        protocol, encode = ENCODINGS[encoding]
        what = f'{module}.{function} by {encoding}'

        def make(
            folder: Path, parts=(module, function, arguments), how=(protocol, encode), kind=None
        ) -> Path:
            payload = how[1](*parts[:2], filled(parts[2], str(folder / CANARY)))
            pickled = checkpoint_pickle(payload, how[0])
            forms = {'zip': in_archive, 'old': in_legacy, 'plain': bytes}
            return _file('evil.pth', forms[kind](pickled))(folder)

        for kind in rng.sample(('zip', 'zip', 'old', 'old', 'plain'), 1):

            def make_kind(folder: Path, make=make, kind=kind) -> Path:
                return make(folder, kind=kind)

            yield f'{what} in {kind}', make_kind, None, 'fail'


def calls(rng: random.Random) -> Iterator[Made]:
    for what, extra in odd_calls():
        pickled = checkpoint_pickle(extra)
        yield f'{what} in zip', 'a.pth', in_archive(pickled), ''
        if rng.random() < 0.4:
            yield f'{what} in old', 'a.pth', in_legacy(pickled), ''


def explosions(rng: random.Random) -> Iterator[Made]:
    for what, extra in bombs():
        pickled = checkpoint_pickle(extra)
        yield f'{what} in zip', 'a.pth', in_archive(pickled), ''
        yield f'{what} in old', 'a.pth', in_legacy(pickled), ''


def streams(rng: random.Random) -> Iterator[Made]:
    """Pickles before, after and in place of the five of the older format."""
    good, old = checkpoint_pickle(py(1)), bases()['published-old.pth']
    evil = b'\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.'
    yield 'evil first', 'a.pth', evil + old, 'fail'
    yield 'evil after the magic number', 'a.pth', old[:15] + evil + old[15:], 'fail'
    yield 'evil last', 'a.pth', old + evil, 'fail'
    yield 'evil in the keys', 'a.pth', _LEGACY_HEAD + _legacy_references(good) + evil, 'fail'
    yield 'evil after the pickle', 'a.pth', in_archive(good + evil), 'fail'
    for head in (b'', _LEGACY_HEAD[:15], _LEGACY_HEAD[:20], _LEGACY_HEAD):
        yield f'only {len(head)} bytes of head', 'a.pth', head, 'fail'
        yield f'two after {len(head)} of head', 'a.pth', head + good + good, 'fail'
    for version in (0, 1000, 1002, -1, 'a', None, (), 1001.0, True, [1], {}):
        data = _LEGACY_HEAD[:15] + b'\x80\x02' + py(version) + b'.' + old[22:]
        yield f'version {version!r}', 'a.pth', data, 'fail'
    for keys in ([], ['1'], ['0', '0'], ['0', '1'], '0', None, {'0': 1}, [0], [[]], ('0',), [None]):
        data = _LEGACY_HEAD + _legacy_references(good) + b'\x80\x02' + py(keys) + b'.'
        yield f'keys {keys!r}', 'a.pth', data + struct.pack('<q4f', 4, 1, 2, 3, 4), 'fail'
    for items in (0, 3, 5, -1, 1 << 40, 1 << 62):
        data = in_legacy(good)
        yield (
            f'{items} items in the data',
            'a.pth',
            data[:-24] + struct.pack('<q4f', items, 1, 2, 3, 4),
            'fail',
        )
    for protocol in (0, 1, 3, 4, 5, 6, 77, 255):
        yield (
            f'protocol {protocol} in zip',
            'a.pth',
            in_archive(checkpoint_pickle(py(1), protocol)),
            '',
        )
        yield (
            f'protocol {protocol} in old',
            'a.pth',
            in_legacy(checkpoint_pickle(py(1), protocol)),
            '',
        )
    texts = [b'<!DOCTYPE html>', b'{"a": 1}', b'version https://git-lfs.github.com/spec/v1\n',
             b'\x1f\x8b',
             b'BZh9', b'PK', b'PK\x05\x06' + bytes(18), b'PK\x03\x04', b'GGUF',
             b'\x89HDF\r\n\x1a\n',
             b'\x93NUMPY', b'\x7fELF', b'import os', bytes(100), b'\xff' * 100, b'\x80\x04.',
             b'.', b'N.',
             b'\x80\x02', b'(dp0\n.', b'c' * 5000, b'S' * 5000, b'\n' * 50, b'\x08\x00\x00\x00',
             b'#!/bin/sh']  # fmt: skip
    for text in texts:
        yield f'starts with {text[:12]!r}', 'a.pth', text, 'fail'
        yield f'named safetensors, {text[:12]!r}', 'a.safetensors', text, 'fail'
    for size in (1, 10, 1000, 100_000):
        for suffix in ('pth', 'safetensors'):
            yield f'{size} random bytes', f'a.{suffix}', rng.randbytes(size), 'fail'


def spliced(rng: random.Random) -> Iterator[Made]:
    """The start of one file and the end of another; one file after another."""
    files = bases()
    for _ in range(50):
        first, second = rng.sample(sorted(files), 2)
        a, b = files[first], files[second]
        cut = rng.randrange(1, len(a)), rng.randrange(1, len(b))
        data = a[: cut[0]] + b[cut[1] :]
        yield f'{first}[:{cut[0]}] {second}[{cut[1]}:]', first, data, 'fail'
    for first in files:
        second = rng.choice(sorted(files))
        yield f'{first} then {second}', first, files[first] + files[second], ''
        yield f'{first} twice', first, files[first] * 2, ''
        yield f'{first} and a byte', first, files[first] + b'\n', 'fail'
        yield f'{first} after a byte', first, b'\n' + files[first], 'fail'


class _Zip:
    """An archive written field by field, so that each can lie."""

    def __init__(self) -> None:
        good = checkpoint_pickle(py(1))
        self.records = {
            'archive/data.pkl': good,
            'archive/byteorder': b'little',
            'archive/data/0': struct.pack('<4f', 1, 2, 3, 4),
            'archive/version': b'3\n',
        }
        self.local: dict[str, dict] = {}
        self.central: dict[str, dict] = {}
        self.end: dict[str, int] = {}
        self.comment = b''
        self.before = self.between = b''

    def bytes(self) -> bytes:
        out, places = bytearray(self.before), {}
        for name, data in self.records.items():
            places[name] = len(out)
            field = {
                'flags': 0, 'method': 0, 'crc': zlib.crc32(data), 'packed': len(data),
                'size': len(data), 'name': name.encode(), 'extra': b'',
            } | self.local.get(name, {})  # fmt: skip
            out += struct.pack(
                '<4s5H3I2H', b'PK\x03\x04', 20, field['flags'], field['method'], 0, 0, field['crc'],
                field['packed'], field['size'], len(field['name']), len(field['extra']),
            ) + field['name'] + field['extra'] + data  # fmt: skip
        out += self.between
        start = len(out)
        for name, data in self.records.items():
            field = {
                'flags': 0, 'method': 0, 'crc': zlib.crc32(data), 'packed': len(data),
                'comment': b'',
                'size': len(data), 'name': name.encode(), 'extra': b'', 'offset': places[name],
                'times': 1,
            } | self.central.get(name, {})  # fmt: skip
            out += field['times'] * (struct.pack(
                '<4s6H3I5H2I', b'PK\x01\x02', 20, 20, field['flags'], field['method'], 0, 0,
                field['crc'], field['packed'], field['size'], len(field['name']),
                len(field['extra']), len(field['comment']), 0, 0, 0, field['offset'],
            ) + field['name'] + field['extra'] + field['comment'])  # fmt: skip
        field = {
            'disk': 0, 'first': 0, 'here': len(self.records), 'count': len(self.records),
            'size': len(out) - start, 'offset': start, 'comment': len(self.comment),
        } | self.end  # fmt: skip
        return bytes(out) + struct.pack('<4s4H2IH', b'PK\x05\x06', *field.values()) + self.comment


def archives(rng: random.Random) -> Iterator[Made]:
    """Directories that lie, and archives of other kinds."""
    yield 'honest', 'a.pth', _Zip().bytes(), 'load'
    for where in ('local', 'central'):
        for record in ('archive/data.pkl', 'archive/data/0', 'archive/version'):
            for field, values in {
                'flags': (1, 8, 0x40, 0x2000, 0xFFFF),
                'method': (8, 12, 14, 99),
                'packed': (0, 1, 17, 1 << 20, 0xFFFFFFFE, 0xFFFFFFFF),
                'size': (0, 1, 17, 1 << 20, 0xFFFFFFFE, 0xFFFFFFFF),
                'crc': (1,),
                'name': (b'', b'archive/', b'/etc/passwd', b'../../x', b'archive/../../x',
                b'x' * 300,
                         b'archive\\data.pkl', b'archive/data/1', b'a\x00b', b'\xff\xfe',
                         b'ARCHIVE/DATA.PKL', b'archive/DATA/0'),
                'extra': (b'abc', b'\x01\x00\x08\x00' + b'\xff' * 8, b'\x01\x00\xff\xff',
                bytes(60_000)),
            }.items():  # fmt: skip
                for value in values:
                    if rng.random() < 0.6:
                        z = _Zip()
                        getattr(z, where)[record] = {field: value}
                        what = f'{where} {record} {field} {str(value)[:20]}'
                        yield what, 'a.pth', z.bytes(), ''
    for record in ('archive/data.pkl', 'archive/data/0'):
        for offset in (1, 30, 5000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF):
            z = _Zip()
            z.central[record] = {'offset': offset}
            yield f'{record} at {offset}', 'a.pth', z.bytes(), 'fail'
        z = _Zip()
        z.central[record] = {'times': 2}
        z.end = {'here': 5, 'count': 5}
        yield f'{record} twice in the directory', 'a.pth', z.bytes(), 'fail'
        z = _Zip()
        z.central[record] = {'comment': b'hello'}
        yield f'{record} with a comment', 'a.pth', z.bytes(), ''
        z = _Zip()
        z.central[record] = z.local[record] = {'packed': 1 << 30, 'size': 1 << 30}
        yield f'{record} of a gigabyte', 'a.pth', z.bytes(), 'fail'
        for extra in (
            struct.pack('<2H2Q', 1, 16, 1 << 40, 1 << 40),
            struct.pack('<2H3Q', 1, 24, 16, 16, 1 << 50),
        ):
            z = _Zip()
            z.central[record] = {'packed': 0xFFFFFFFF, 'size': 0xFFFFFFFF, 'extra': extra}
            # The second one's sizes are true, and its offset is not asked for.
            must = 'fail' if extra[4:12] != struct.pack('<Q', 16) or 'pkl' in record else 'load'
            yield f'{record} with 64-bit sizes', 'a.pth', z.bytes(), must
    for field, values in {
        'disk': (1, 0xFFFF), 'first': (1,), 'here': (0, 3, 0xFFFF), 'count': (0, 3, 5, 0xFFFF),
        'size': (0, 1, 1000, 0xFFFFFFFF), 'offset': (0, 1, 0xFFFFFFFF), 'comment': (1, 9, 0xFFFF),
    }.items():  # fmt: skip
        for value in values:
            z = _Zip()
            z.end = {field: value}
            yield f'end {field} {value}', 'a.pth', z.bytes(), 'fail'
    for before, between, comment in ((b'x', b'', b''), (b'PK\x03\x04', b'', b''), (b'',
                                      b'x' * 9, b''),
                                     (b'', b'', b'hello'), (b'#!/bin/sh\n', b'', b'')):  # fmt: skip
        z = _Zip()
        z.before, z.between, z.comment = before, between, comment
        yield f'more bytes {before + between + comment!r}', 'a.pth', z.bytes(), ''
    lying = struct.pack('<4sQ2H2I4Q', b'PK\x06\x06', 44, 45, 45, 0, 0, 4, 4, 1 << 40, 1 << 40)
    for place in (0, 1 << 40, 1 << 63):
        z = _Zip()
        locator = struct.pack('<4sIQI', b'PK\x06\x07', 0, place, 1)
        data = z.bytes()
        yield f'64-bit end at {place}', 'a.pth', data[:-22] + lying + locator + data[-22:], 'fail'
    data = z.bytes()
    locator = struct.pack('<4sIQI', b'PK\x06\x07', 0, len(data) - 22, 1)
    yield '64-bit end that lies', 'a.pth', data[:-22] + lying + locator + data[-22:], 'fail'
    good = records_of(bases()['bare.pth'])
    for name in ('data.pkl', 'version', 'byteorder', 'data/0', '.format_version'):
        rest = {other: value for other, value in good.items() if other != name}
        must = 'load' if name in ('byteorder', '.format_version') else 'fail'
        yield f'without {name}', 'a.pth', archive(rest), must
    for name, values in {
        'byteorder': (b'', b'big', b'middle', b'\xff', b'little\n'),
        'version': (b'', b'0', b'1', b'2\n', b'99', b'-1', b'abc', b'9' * 40, b'\xff'),
        '.format_version': (b'', b'0', b'abc'),
        '.storage_alignment': (b'', b'0', b'-5', b'abc', b'1' * 50),
        'data/0': (b'', b'a', bytes(7)),
        'data.pkl': (b'', b'.', b'N.', b'\x80\x02}.', b'\x80'),
        '.data/serialization_id': (b'', b'x' * 5000),
        'tensors/0': (b'a',), 'code/a.py': (b'import os',), 'constants.pkl': (b'\x80\x02).',),
        'data.pkl/x': (b'',), '../evil': (b'a',), 'é': (b'a',), 'a\\b': (b'',), 'DATA.PKL': (b'',),
        'a\nb': (b'',), 'x' * 9000: (b'',),
    }.items():  # fmt: skip
        for value in values:
            yield f'{name[:20]!r} {value[:9]!r}', 'a.pth', archive(good | {name: value}), ''
    for packing in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        data = archive(good, compression=packing)
        yield f'compressed {packing}', 'a.pth', data, 'fail'
        more = {'data/0': bytes(10_000_000)}
        bomb = partial(archive, good | more, compression=packing)
        yield f'bomb in a storage {packing}', 'a.pth', bomb, 'fail'
        more = {'data.pkl': b'N' * 10_000_000}
        bomb = partial(archive, good | more, compression=packing)
        yield f'bomb in the pickle {packing}', 'a.pth', bomb, 'fail'
    other_case = archive(good | {'DATA/0': b''})
    yield 'names that differ in case', 'a.pth', other_case, 'fail'
    yield 'many records', 'a.pth', partial(archive, good | {f'x/{i}': b'' for i in range(3000)}), ''
    yield 'no folder', 'a.pth', archive({'': b''}, ''), 'fail'
    yield 'no records', 'a.pth', archive({}), 'fail'
    yield 'two folders', 'a.pth', archive({'data.pkl': b'N.'}) + archive(good), 'fail'
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), buffer)
    yield 'a TorchScript program', 'a.pt', buffer.getvalue(), 'fail'
    for mode in ('w', 'w:gz', 'w:bz2'):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode) as tar:
            for name in ('sys_info', 'pickle', 'storages', 'tensors'):
                info = tarfile.TarInfo(name)
                info.size = 2
                tar.addfile(info, io.BytesIO(b'N.'))
        yield f'a tar {mode}', 'a.pth', buffer.getvalue(), 'fail'
        if mode == 'w':
            # A first name that is the magic number of the later format, in a tar all the same.
            head = bytearray(buffer.getvalue())
            head[:100] = _LEGACY_HEAD[:100].ljust(100, b'\0')
            head[148:156] = b' ' * 8
            head[148:156] = b'%06o\0 ' % sum(head[:512])
            yield 'a tar that starts like a pickle', 'a.pth', bytes(head), 'fail'


def safetensors_headers(rng: random.Random) -> Iterator[Made]:
    def entry(dtype='F32', shape=(4,), place=(0, 16)):
        return {'dtype': dtype, 'shape': list(shape), 'data_offsets': list(place)}

    data = struct.pack('<4f', 1, 2, 3, 4)
    good = {'w': entry()}
    yield 'honest', 'a.safetensors', safetensors(good, data), 'load'
    size = len(json.dumps(good))
    for length in (0, 1, 2, size - 1, size + 1, size + 16, size + 17, 10**6, 100_000_000,
                   100_000_001,
                   1 << 40, 1 << 63, (1 << 64) - 1):  # fmt: skip
        yield f'length {length}', 'a.safetensors', safetensors(good, data, length), 'fail'
    for place in ((0, 15), (0, 17), (1, 17), (16, 0), (0, 0), (-1, 15), (0, 1 << 40), (1 << 63,
                   1 << 63),
                  (0, 16.0), ('0', '16'), (0,), (0, 16, 16), None, (0, 1 << 70)):  # fmt: skip
        header = {'w': entry() | {'data_offsets': place}}
        yield f'offsets {place}', 'a.safetensors', safetensors(header, data), 'fail'
    for shape in ((5,), (3,), (-4,), (2, 2), (), (1 << 40,), (1 << 32, 1 << 32), (1 << 63, 2),
                   (4.0,),
                  ('4',), (4, 0), (1 << 62, 4, 0), (1,) * 70 + (4,), None, (1 << 70,)):  # fmt: skip
        header = {'w': entry() | {'shape': shape}}
        yield f'shape {str(shape)[:20]}', 'a.safetensors', safetensors(header, data), ''
    for dtype in ('F64', 'F16', 'BF16', 'I8', 'U64', 'BOOL', 'F8_E4M3', 'F8_E8M0', 'F4',
                  'F6_E2M3', 'C64',
                  'X', '', None, 5, 'f32', []):  # fmt: skip
        bits = {'F64': 8, 'F16': 2, 'BF16': 2, 'U64': 8, 'C64': 8}.get(str(dtype), 1)
        for count in {4, 16 // bits, 32}:
            header = {'w': entry() | {'dtype': dtype, 'shape': [count]}}
            yield f'{count} of {dtype}', 'a.safetensors', safetensors(header, data), ''
    two = {'a': entry(), 'b': entry(place=(16, 32))}
    for a, b in (((0, 16), (0, 16)), ((0, 16), (8, 24)), ((0, 16), (20, 36)), ((16, 32), (16, 32)),
                 ((4, 20), (20, 36)), ((16, 32), (0, 16))):  # fmt: skip
        header = {'a': entry(place=a), 'b': entry(place=b)}
        must = 'load' if a[0] == 16 != b[0] else 'fail'
        yield f'placed at {a} and {b}', 'a.safetensors', safetensors(header, data * 2), must
    yield 'data too long', 'a.safetensors', safetensors(good, data + b'x'), 'fail'
    yield 'data too short', 'a.safetensors', safetensors(two, data), 'fail'
    double = b'{"w":%s,"w":%s}' % ((json.dumps(entry()).encode(),) * 2)
    yield 'a key twice', 'a.safetensors', safetensors(double, data), ''
    for text in (b'', b'{', b'[]', b'5', b'null', b'"a"', b'{"w":5}', b'{"w":null}',
                 b'{"w":{}}', b'{"w":[]}',
                 b'\xff\xfe', b'{"\xff":5}', b'not json at all', b'{"a":' * 5000, b'[' * 200_000,
                 b'{"w":' + b'[' * 200 + b']' * 200 + b'}', b"{'w': 5}", b'{"w":NaN}',
                 b' ' * 100 + b'{}',
                 b'{}' + b' ' * 100, b'{} {}', b'{"w":1e400}', b'{"__metadata__":5}',
                 b'{"__metadata__":{"a":5}}',
                 b'{"__metadata__":null}', b'{"__metadata__":{}, "__metadata__":{}}',
                 b'{"\\ud800":5}'):  # fmt: skip
        yield f'header {text[:24]!r}', 'a.safetensors', safetensors(text), ''
    for name in ('a\nb', '\x1b', 'x' * 2000, '\u2028', '', 'é', '__metadata__', 'a/b', '\x00'):
        header = {name: entry()}
        yield f'called {name[:12]!r}', 'a.safetensors', safetensors(header, data), ''
    many = {f'{i}': entry(shape=(0,), place=(0, 0)) for i in range(40_000)}
    yield 'many tensors', 'a.safetensors', safetensors(many), ''
    wide = {'__metadata__': {'a': 'x' * 3_000_000}}
    yield 'long metadata', 'a.safetensors', safetensors(wide), ''
    whole = bases()['bare.safetensors']
    header = int.from_bytes(whole[:8], 'little')
    for _ in range(80):
        changed = bytearray(whole)
        position = 8 + rng.randrange(header)
        changed[position] = rng.choice((*b'0123456789[]{}",:F-\\', 0, 0xFF))
        yield f'header at {position - 8}', 'bare.safetensors', bytes(changed), ''


def kinds_of_file(rng: random.Random) -> Iterator[Made]:
    """What a path may lead to beside a regular file, and how it may be called."""

    def folder(root: Path) -> Path:
        (root / 'a.pth').mkdir()
        return root / 'a.pth'

    def fifo(root: Path) -> Path:
        os.mkfifo(root / 'a.pth')
        return root / 'a.pth'

    def linked(root: Path, target: str) -> Path:
        (root / 'a.pth').symlink_to(target)
        return root / 'a.pth'

    def forbidden(root: Path) -> Path:
        path = _file('a.pth', bases()['bare.pth'])(root)
        path.chmod(0)
        return path

    def sparse(root: Path, head: bytes) -> Path:
        path = _file('a.pth', head)(root)
        os.truncate(path, 1 << 36)
        return path

    yield 'nothing there', lambda root: root / 'none.pth', None, 'fail'
    yield 'an empty name', lambda root: root / '', None, 'fail'
    yield 'a folder that is not there', lambda root: root / 'a' / 'b.pth', None, 'fail'
    yield 'a file as a folder', lambda root: _file('f', b'x')(root) / 'b.pth', None, 'fail'
    yield 'a long name', lambda root: root / ('n' * 300), None, 'fail'
    yield 'a long path', lambda root: root / '/'.join(['n' * 100] * 60), None, 'fail'
    yield 'a null in the name', lambda root: root / 'a\0b', None, 'fail'
    yield 'folder', folder, None, 'fail'
    yield 'fifo', fifo, None, 'fail'
    yield 'forbidden', forbidden, None, 'load' if os.geteuid() == 0 else 'fail'
    for name, head in {'zeros': b'', 'zip': bases()['bare.pth'], 'old': bases()['bare.pth'][:4],
                       'legacy': bases()['published-old.pth'],
                       'safetensors': safetensors({'w': {}})}.items():  # fmt: skip
        yield f'64 GB of {name}', lambda root, h=head: sparse(root, h), None, 'fail'
    for target in ('/dev/null', '/dev/zero', '/dev/urandom', '/proc/self/mem', '/proc/cpuinfo',
                   '/proc/self/environ', 'a.pth', 'nowhere', '/', '/dev/stdin',
                   '/proc/self/fd'):  # fmt: skip
        yield f'link to {target}', lambda root, t=target: linked(root, t), None, 'fail'
    for name in ('a b.pth', '-rf', '--force', 'é.pth', 'a\nb.pth', '\x1b[31m.pth', '%s{}.pth',
                 "'\".pth",
                 os.fsdecode(b'\xff\xfe.pth'), '.pth', 'pth', '.safetensors', '*', '~', '$HOME',
                 ' ',
                 'a.pth.tmp', 'A.PTH', 'a.SAFETENSORS', 'http:', 'con.pth',
                 '\u202e.pth'):  # fmt: skip
        yield f'good called {name!r}', _file(name, bases()['bare.pth']), None, 'load'
        yield f'mapped called {name!r}', _file(name, bases()['bare.safetensors']), None, ''
        yield f'other called {name!r}', _file(name, saved({'w': torch.ones(2)})), None, 'load'
        yield f'bad called {name!r}', _file(name, bases()['bare.pth'][:900]), None, 'fail'


def large(rng: random.Random) -> Iterator[Made]:
    """Files of tens of megabytes, beside which what a process takes anyway is little."""

    def whole() -> dict:
        # The same in every run, and fast to make.
        return {'state_dict': model('backbone.') | {'neck.weight': torch.arange(10_000_000.0)}}

    def history() -> dict:
        steps = list(range(1_000_000))
        buffer = HistoryBuffer([float(step) for step in steps], steps)
        return whole() | {'message_hub': {'log_scalars': {'loss': buffer}}}

    def tied() -> dict:
        weights = torch.arange(5_000_000.0)
        return {'state_dict': model('backbone.') | {f'neck.{i}.weight': weights for i in range(2)}}

    def in_safetensors() -> bytes:
        return save_safetensors(whole()['state_dict'])

    def half(file: Callable[[], bytes]) -> bytes:
        data = file()
        return data[: len(data) // 2]

    def cleared(file: Callable[[], bytes]) -> bytes:
        data = file()
        return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)

    def expanded() -> bytes:
        return saved({'state_dict': {'w': torch.arange(5_000_000.0).expand(40, -1)}})

    def double() -> bytes:
        return saved({'state_dict': {'w': torch.arange(5_000_000).double()}})

    for old in (False, True):
        kind = 'old' if old else 'zip'
        for make in (whole, history, tied):
            file = partial(lambda make, old: saved(make(), old), make, old)
            yield f'{make.__name__} in {kind}', 'a.pth', file, 'load'
        file = partial(lambda old: saved(whole(), old), old)
        yield f'half a {kind}', 'a.pth', partial(half, file), 'fail'
        yield f'{kind} half full of zeros', 'a.pth', partial(cleared, file), 'fail'
    yield 'whole in safetensors', 'a.safetensors', in_safetensors, 'load'
    yield 'half a safetensors', 'a.safetensors', partial(half, in_safetensors), 'fail'
    yield 'zeros in safetensors', 'a.safetensors', partial(cleared, in_safetensors), ''
    yield 'expanded', 'a.pth', expanded, 'fail'
    yield 'double', 'a.pth', double, 'load'
    text = checkpoint_pickle(py('x' * 30_000_000))
    yield 'a long text', 'a.pth', in_archive(text), 'load'
    yield 'a long text in old', 'a.pth', in_legacy(text), 'load'
    wide = checkpoint_pickle(py('\u0416' * 10_000_000))
    yield 'a long text of wide letters', 'a.pth', in_archive(wide), 'fail'
    numbers = checkpoint_pickle(py([0.5] * 3_000_000))
    yield 'a long list', 'a.pth', in_archive(numbers), ''
    yield 'noise', 'a.pth', partial(rng.randbytes, 30_000_000), 'fail'
    yield 'noise in safetensors', 'a.safetensors', partial(rng.randbytes, 30_000_000), 'fail'


FAMILIES: dict[str, Callable[[random.Random], Iterator[Made]]] = {
    'valid': valid,
    'truncated': truncated,
    'flipped': flipped,
    'directory-flipped': flipped_directory,
    'pickle-flipped': flipped_pickle,
    'contents': contents,
    'gadgets': gadgets,
    'odd-calls': calls,
    'bombs': explosions,
    'streams': streams,
    'spliced': spliced,
    'archives': archives,
    'safetensors': safetensors_headers,
    'kinds-of-file': kinds_of_file,
    'large': large,
}


def cases(family: str, seed: int = 0) -> list[Case]:
    """All cases of a family, the same for the same seed."""
    rng = random.Random(f'{family} {seed}')
    found = []
    for number, (what, name, data, must) in enumerate(FAMILIES[family](rng)):
        make = name if callable(name) else _file(name, data)
        found.append(Case(f'{family}/{number} {what}', make, must))
    return found
