import argparse
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmvheat.checkpoint import read_checkpoint, write_checkpoint
from mmvheat.errors import UserError

TENSORS = {
    'w': torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    'half': torch.ones(2, dtype=torch.bfloat16),
    'steps': torch.tensor(7),
    'mask': torch.tensor([True, False]),
}


class Payload:
    """A pickle of it creates a file where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def save_zip(path):
    torch.save({'state_dict': TENSORS}, path)


def save_legacy(path):
    torch.save({'state_dict': TENSORS}, path, _use_new_zipfile_serialization=False)


def save_safetensors(path):
    write_checkpoint(path, TENSORS, {'key': 'model'})


FORMATS = {'a.pth': save_zip, 'b.pth': save_legacy, 'c.safetensors': save_safetensors}


@pytest.mark.parametrize('mmap', [False, True])
@pytest.mark.parametrize('name', FORMATS)
def test_round_trip(tmp_path, name, mmap):
    FORMATS[name](tmp_path / name)
    loaded = read_checkpoint(tmp_path / name, mmap)['state_dict']
    assert loaded.keys() == TENSORS.keys()
    for key, tensor in TENSORS.items():
        assert loaded[key].dtype == tensor.dtype and torch.equal(loaded[key], tensor)


def test_safetensors_is_recognised_under_any_name(tmp_path):
    save_safetensors(tmp_path / 'c.safetensors')
    path = (tmp_path / 'c.safetensors').rename(tmp_path / 'weights.bin')
    checkpoint = read_checkpoint(path)
    assert torch.equal(checkpoint['state_dict']['w'], TENSORS['w'])
    assert checkpoint['meta'] == {'format': 'pt', 'key': 'model'}


@pytest.mark.parametrize('name', FORMATS)
def test_truncated_anywhere_is_one_clear_line(tmp_path, name):
    FORMATS[name](tmp_path / name)
    data = (tmp_path / name).read_bytes()
    assert len(data) > 300
    for end in [*range(1, 24), 40, *range(60, len(data), 37), len(data) - 1]:
        (tmp_path / name).write_bytes(data[:end])
        with pytest.raises(ValueError) as caught:
            read_checkpoint(tmp_path / name)
        message = str(caught.value)
        assert str(tmp_path / name) in message and '\n' not in message
        assert 'copy or download it again' in message, (end, message)


def write_pickle(path, payload, protocol):
    path.write_bytes(pickle.dumps({'model': payload}, protocol))


def write_legacy(path, payload, protocol):
    torch.save({'model': payload}, path, pickle_protocol=2, _use_new_zipfile_serialization=False)


def write_zip(path, payload, protocol):
    torch.save({'model': payload}, path, pickle_protocol=2)


@pytest.mark.parametrize(
    'write, protocol',
    [(write_zip, 2), (write_legacy, 2), *((write_pickle, p) for p in range(6))],
)
def test_code_in_a_pickle_does_not_run(tmp_path, write, protocol):
    path, trace = tmp_path / 'evil.pth', tmp_path / 'trace'
    write(path, Payload(trace), protocol)
    with pytest.raises(ValueError, match=r"evil.pth wants to load '\w+.mkdir'.*nothing was run"):
        read_checkpoint(path)
    assert not trace.exists()
    # The payload is real: careless loading would have run it.
    if write is write_pickle:
        pickle.loads(path.read_bytes())
        assert trace.exists()


def test_getattr_gives_a_pickle_no_way_out(tmp_path):
    class Escape:
        def __reduce__(self):
            return getattr, (torch.Tensor, 'tofile')

    torch.save({'model': Escape()}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='a.pth .*not allowed in a checkpoint'):
        read_checkpoint(tmp_path / 'a.pth')


def test_harmless_objects_are_named_when_refused(tmp_path):
    torch.save({'args': argparse.Namespace(lr=1)}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match="'argparse.Namespace'.*save the state dict alone"):
        read_checkpoint(tmp_path / 'a.pth')


def test_missing_folder_empty(tmp_path):
    with pytest.raises(ValueError, match='none.pth does not exist'):
        read_checkpoint(tmp_path / 'none.pth')
    with pytest.raises(ValueError, match='is a folder'):
        read_checkpoint(tmp_path)
    (tmp_path / 'empty.pth').touch()
    with pytest.raises(ValueError, match='empty.pth is empty'):
        read_checkpoint(tmp_path / 'empty.pth')
    with pytest.raises(ValueError, match='cannot be read: File name too long'):
        read_checkpoint(tmp_path / ('n' * 300))
    os.mkfifo(tmp_path / 'fifo')
    with pytest.raises(ValueError, match='not a regular file'):
        read_checkpoint(tmp_path / 'fifo')


@pytest.mark.parametrize(
    'data, says',
    [
        (b'<!DOCTYPE html>', 'starts with .*DOCTYPE'),
        (b'version https://git-lfs.github.com/spec/v1', 'starts with .*version https'),
        (b'import os\n', 'not a checkpoint'),
        (b'\0' * 64, 'not a checkpoint'),
        (bytes(range(256)), 'not a checkpoint'),
        (pickle.dumps({'a': 1}, 2), 'not a checkpoint'),
        (pickle.dumps({'a': 1}, 4), 'not a checkpoint'),
    ],
)
def test_other_files(tmp_path, data, says):
    (tmp_path / 'a.pth').write_bytes(data)
    with pytest.raises(ValueError, match=f'a.pth.*{says}') as caught:
        read_checkpoint(tmp_path / 'a.pth')
    assert '\n' not in str(caught.value)
    (tmp_path / 'a.pth').rename(tmp_path / 'a.safetensors')
    with pytest.raises(ValueError, match='a.safetensors is no complete safetensors'):
        read_checkpoint(tmp_path / 'a.safetensors')


@pytest.mark.filterwarnings('ignore:.*deprecated:DeprecationWarning')
def test_other_archives(tmp_path):
    np.savez(tmp_path / 'a.npz', a=np.ones(2))
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / 'b.pt')
    with zipfile.ZipFile(tmp_path / 'c.zip', 'w') as file:
        file.writestr('notes/readme.txt', 'no weights')
    torch.save({'w': torch.ones(1)}, tmp_path / 'd.pth', pickle_protocol=4)
    for name in ('a.npz', 'b.pt', 'c.zip', 'd.pth'):
        with pytest.raises(ValueError, match=f'{name} holds no checkpoint.*torch.save') as caught:
            read_checkpoint(tmp_path / name)
        assert '\n' not in str(caught.value)


def test_whole_modules_and_bare_tensors(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match="'torch.nn.modules.linear.Linear'"):
        read_checkpoint(tmp_path / 'a.pth')
    torch.save(torch.ones(2), tmp_path / 'b.pth')
    with pytest.raises(ValueError, match='b.pth holds a Tensor, not a checkpoint'):
        read_checkpoint(tmp_path / 'b.pth')


def pickled(name, data, **records):
    """An archive of one tensor of two floats, with some of its records replaced."""
    buffer = io.BytesIO()
    torch.save({'w': torch.tensor([1.0, 2.0])}, buffer)
    with zipfile.ZipFile(buffer) as file:
        parts = {entry: file.read(entry) for entry in file.namelist()}
    parts[f'archive/{name}'] = data(parts[f'archive/{name}'])
    parts |= {f'archive/{entry}': value for entry, value in records.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as file:
        for entry, value in parts.items():
            file.writestr(entry, value)
    return buffer.getvalue()


@pytest.mark.parametrize(
    'name, old, new, says',
    [
        # Two floats that claim to be 64: mapped, torch takes the next bytes of the file.
        ('data.pkl', b'K\x02t', b'K\x40t', r"lacks data: its storage '0' has 8 bytes, not 256"),
        # A name that torch finds whatever its case, so which of the two it reads is chance.
        ('data/0', b'', b'', "holds 'archive/DATA/0' twice"),
        ('data.pkl', b'K\x02\x85', b'K\x09\x85', 'a tensor of 9 that reaches beyond its storage'),
    ],
)
def test_torch_is_not_asked_to_believe_a_file(tmp_path, name, old, new, says):
    more = {'DATA/0': bytes(8)} if not old else {}
    path = tmp_path / 'a.pth'
    path.write_bytes(pickled(name, lambda data: data.replace(old, new, 1) if old else data, **more))
    for mmap in (False, True):
        with pytest.raises(UserError, match=says):
            read_checkpoint(path, mmap)


def test_a_changed_pickle_is_told_by_its_checksum(tmp_path):
    save_zip(tmp_path / 'a.pth')
    data = (tmp_path / 'a.pth').read_bytes()
    assert data.count(b'steps') == 1
    (tmp_path / 'a.pth').write_bytes(data.replace(b'steps', b'stepz'))
    with pytest.raises(UserError, match='is truncated or damaged'):
        read_checkpoint(tmp_path / 'a.pth')


def test_a_file_cannot_change_what_all_histories_share(tmp_path):
    """mmengine's HistoryBuffer puts the methods in its state into a dict of the class."""
    history = HistoryBuffer([1.0], [1])
    before = dict(HistoryBuffer._statistics_methods)
    try:
        HistoryBuffer._statistics_methods['mean'] = HistoryBuffer.max
        torch.save({'log': history}, tmp_path / 'a.pth')
    finally:
        HistoryBuffer._statistics_methods.update(before)
    with pytest.raises(UserError, match='sets attributes of a history'):
        read_checkpoint(tmp_path / 'a.pth')
    assert HistoryBuffer._statistics_methods == before


@pytest.mark.parametrize('legacy', [False, True])
def test_a_storage_must_fit_into_the_file(tmp_path, legacy):
    """A legacy file of a hundred bytes asked torch for as much memory as it named."""
    path = tmp_path / 'a.pth'
    torch.save({'w': torch.zeros(3)}, path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    lying = data.replace(b'K\x03N', b'J\xff\xff\xff\x7fN') if legacy else data
    if not legacy:
        lying = pickled('data.pkl', lambda data: data.replace(b'K\x02t', b'J\xff\xff\xff\x7ft', 1))
    assert lying != data
    path.write_bytes(lying)
    with pytest.raises(UserError, match='declares a storage of 8,589.9 MB, the file has 0.0 MB'):
        read_checkpoint(path)


def test_names_with_line_breaks_give_one_line(tmp_path):
    path = tmp_path / 'a\nb.pth'
    path.write_bytes(b'no checkpoint')
    with pytest.raises(UserError, match=r"a\\nb\.pth' is not a checkpoint") as caught:
        read_checkpoint(path)
    assert '\n' not in str(caught.value)
    torch.save({'a\nb': torch.ones(1)}, path)
    with pytest.raises(UserError, match='cannot be printed: rename it') as caught:
        read_checkpoint(path)
    assert '\n' not in str(caught.value)
