import argparse
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from mmvheat.checkpoint import read_checkpoint, write_checkpoint

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
