import os
import resource
import signal
import subprocess
import sys

import pytest
import torch

from mmvheat.checkpoint import read_checkpoint, write_checkpoint
from mmvheat.errors import UserError

BIG = {'w': torch.arange(100_000)}
META = {'mode': 'bicubic', 'target_size': [64, 96]}
NAMES = ['out.pth', 'out.safetensors']


@pytest.fixture(params=NAMES)
def target(request, tmp_path):
    return tmp_path / request.param


def test_round_trip(target):
    tied = torch.randn(4, 6)
    tensors = {'a': tied, 'b': tied, 'c': tied.t(), 'd': torch.tensor([True]), 'e': tied.bfloat16()}
    tensors['f'] = torch.nn.Parameter(tied[:, 2:])
    write_checkpoint(target, {k: v.detach() for k, v in tensors.items()}, META)
    checkpoint = read_checkpoint(target)
    assert checkpoint.keys() == {'state_dict', 'meta'}
    for name, tensor in tensors.items():
        loaded = checkpoint['state_dict'][name]
        assert loaded.dtype == tensor.dtype and torch.equal(loaded, tensor)
    if target.suffix == '.pth':
        assert checkpoint['meta'] == META
    else:
        assert checkpoint['meta'] == {'format': 'pt', 'mode': 'bicubic', 'target_size': '[64, 96]'}
    assert os.listdir(target.parent) == [target.name]


def test_dicts_in_the_metadata_come_back(target):
    meta = {'dataset_meta': {'classes': ['a', 'b']}, 'source': '{no json', 'sizes': [1, 2]}
    write_checkpoint(target, BIG, meta)
    loaded = read_checkpoint(target)['meta']
    if target.suffix == '.safetensors':  # text, but for dicts: tools read class names off them
        meta = {'format': 'pt', **meta, 'sizes': '[1, 2]'}
    assert loaded == meta


def test_entry(tmp_path):
    write_checkpoint(tmp_path / 'out.pth', BIG, {}, entry='model')
    assert read_checkpoint(tmp_path / 'out.pth').keys() == {'model', 'meta'}


def test_mode_follows_the_umask(target):
    before = os.umask(0o027)
    try:
        write_checkpoint(target, BIG, {})
    finally:
        os.umask(before)
    assert target.stat().st_mode & 0o777 == 0o640


def test_existing_file_needs_force(target):
    target.write_bytes(b'precious')
    with pytest.raises(UserError, match=f'{target.name} exists: give --force'):
        write_checkpoint(target, BIG, {})
    assert target.read_bytes() == b'precious'
    write_checkpoint(target, BIG, {}, force=True)
    assert torch.equal(read_checkpoint(target)['state_dict']['w'], BIG['w'])


def test_file_that_appears_meanwhile_is_kept(target, monkeypatch):
    monkeypatch.setattr(os, 'fsync', lambda _: target.write_bytes(b'faster'))
    with pytest.raises(UserError, match='exists'):
        write_checkpoint(target, BIG, {})
    assert target.read_bytes() == b'faster' and os.listdir(target.parent) == [target.name]


def test_link_stays_a_link(tmp_path):
    (tmp_path / 'real.pth').write_bytes(b'old')
    (tmp_path / 'link.pth').symlink_to('real.pth')
    write_checkpoint(tmp_path / 'link.pth', BIG, {}, force=True)
    assert (tmp_path / 'link.pth').is_symlink()
    assert torch.equal(read_checkpoint(tmp_path / 'real.pth')['state_dict']['w'], BIG['w'])


@pytest.mark.parametrize('error', [OSError(5, 'I/O error'), KeyboardInterrupt(), SystemExit(143)])
@pytest.mark.parametrize('step', ['fsync', 'replace'])
def test_failure_leaves_the_old_file_alone(target, monkeypatch, step, error):
    target.write_bytes(b'old')

    def fail(*_):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(UserError if isinstance(error, OSError) else type(error)):
        write_checkpoint(target, BIG, {}, force=True)
    assert target.read_bytes() == b'old' and os.listdir(target.parent) == [target.name]


def test_metadata_without_end(target):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    if target.suffix == '.safetensors':  # JSON cannot say it: it stays behind
        write_checkpoint(target, BIG, {'deep': deep, 'mode': 'pad'})
        assert read_checkpoint(target)['meta'] == {'format': 'pt', 'mode': 'pad'}
    else:
        with pytest.raises(UserError, match='nested too deeply'):
            write_checkpoint(target, BIG, {'deep': deep})
        assert os.listdir(target.parent) == []


@pytest.mark.parametrize('old', [None, b'old'])
def test_full_disk(target, old):
    """The kernel stops the write half-way, as on a full disk."""
    if old:
        target.write_bytes(old)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=f'{target.name} cannot be written: File too large'):
            write_checkpoint(target, BIG, {}, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(target.parent) == ([target.name] if old else [])
    assert old is None or target.read_bytes() == old


def test_killed_process_leaves_the_old_file(tmp_path):
    target = tmp_path / 'out.pth'
    target.write_bytes(b'old')
    code = (
        'import os, signal, sys, torch\n'
        'from mmvheat.checkpoint import write_checkpoint\n'
        'os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n'
        'write_checkpoint(sys.argv[1], {"w": torch.ones(9)}, {}, force=True)\n'
    )
    done = subprocess.run([sys.executable, '-c', code, target], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert target.read_bytes() == b'old'


@pytest.mark.parametrize('force', [False, True])
def test_paths_that_cannot_be_written(tmp_path, force):
    (tmp_path / 'file').write_bytes(b'kept')
    os.mkfifo(tmp_path / 'fifo')
    for name, says in {
        '.': 'is a folder',
        'missing/out.pth': 'make the folder .*missing first',
        'file/out.pth': 'cannot be written',
        'fifo': 'not a regular file',
        'n' * 300: 'cannot be written: File name too long',
    }.items():
        with pytest.raises(UserError, match=says):
            write_checkpoint(tmp_path / name, BIG, {}, force)
    with pytest.raises(UserError, match='/proc/out.pth cannot be written'):
        write_checkpoint('/proc/out.pth', BIG, {}, force)
    assert sorted(os.listdir(tmp_path)) == ['fifo', 'file']


def test_read_only_folder(target, monkeypatch):
    monkeypatch.setattr(os, 'access', lambda *_: False)  # a real one does not stop root
    with pytest.raises(UserError, match='read-only'):
        write_checkpoint(target, BIG, {})
    assert os.listdir(target.parent) == []
