"""What is downloaded is whole, is what its name says, and is downloaded once."""

import errno
import hashlib
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
from web import free_port, serve

from mmvheat.checkpoint.io import download as module
from mmvheat.checkpoint.io.download import download, is_url, local_file
from mmvheat.errors import UserError

CONTENT = bytes(range(256)) * 5000
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def web():
    with serve() as web:
        yield web


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    return tmp_path / 'home' / 'hub' / 'checkpoints'


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob('*') if path.is_file())


@pytest.mark.parametrize(
    ('path', 'where'),
    [
        (f'a/vheat-{SHA[:8]}.pth', f'vheat-{SHA[:8]}.pth'),
        (f'vheat_20240101-{SHA[:8]}.pth', f'vheat_20240101-{SHA[:8]}.pth'),
        (f'vheat-{SHA}.safetensors?download=true', f'vheat-{SHA}.safetensors'),
        ('a/epoch_12.pth', None),
        ('vheat-20240101.pth', None),  # a date
    ],
)
def test_a_file_is_downloaded_once(web, hub, path, where):
    web.files[path.partition('?')[0]] = CONTENT
    for _ in range(2):
        file = download(web.url(path))
        assert file.read_bytes() == CONTENT
    assert len(web.asked) == 1
    # torch.hub and mmengine find a file by a name that says what is in it.
    assert file.is_relative_to(hub) and file.name == Path(path.partition('?')[0]).name
    assert (file == hub / where) if where else (file.parent.parent == hub)
    assert left(hub) == [file.name]


def test_two_addresses_are_two_files(web):
    """Where nothing in the name tells the contents apart."""
    web.files.update({'a/epoch_12.pth': b'a' * 99, 'b/epoch_12.pth': b'b' * 99})
    assert download(web.url('a/epoch_12.pth')).read_bytes() == b'a' * 99
    assert download(web.url('b/epoch_12.pth')).read_bytes() == b'b' * 99


def test_what_torch_hub_has_is_used(web, hub):
    hub.mkdir(parents=True)
    (hub / f'vheat-{SHA[:8]}.pth').write_bytes(CONTENT)
    assert download(web.url(f'vheat-{SHA[:8]}.pth')).read_bytes() == CONTENT
    assert web.asked == []


def test_paths_stay_paths(web):
    assert local_file('a/b.pth') == Path('a/b.pth')
    web.files['x.pth'] = b'x'
    assert local_file(web.url('x.pth')).read_bytes() == b'x'
    assert is_url('https://a/b') and not is_url('s3://a/b') and not is_url('http.pth')


@pytest.mark.parametrize(
    ('address', 'said'),
    [
        ('{}/gone.pth', 'the server answers 404 Not Found; check the address'),
        ('{}/', 'names no file'),
        ('{}', 'names no file'),
        ('http://127.0.0.1:{port}/x.pth', 'cannot be reached (Connection refused)'),
        ('http://no-such-host.invalid/x.pth', 'cannot be reached'),
        ('http:///x.pth', 'cannot be reached'),
        ('http://127.0.0.1:no/x.pth', 'check the address'),
        ('http://[::1/x.pth', 'is no address'),
        ('{}/a b.pth', 'check the address'),
        ('{}/half.pth', f'ended after 1000 of {len(CONTENT)} bytes: try again'),
        ('{}/vheat-00000000.pth', f'starts with {SHA[:8]}, its name says 00000000'),
    ],
)
def test_what_goes_wrong_is_one_line_and_leaves_nothing(web, hub, address, said):
    web.files.update({'half.pth': CONTENT, 'vheat-00000000.pth': CONTENT})
    web.cut = 1000 if 'half' in address else None
    address = address.format(web.address, port=free_port())
    with pytest.raises(UserError) as raised:
        download(address)
    line = str(raised.value)
    assert said in line and address in line and '\n' not in line
    assert left(hub) == []
    web.cut = None  # and nothing of it stands in the way of another try
    if 'half' in address:
        assert download(address).read_bytes() == CONTENT


def test_a_full_disk(web, hub, monkeypatch):
    web.files['x.pth'] = CONTENT

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(UserError, match='No space left on device.*TORCH_HOME'):
        download(web.url('x.pth'))
    assert left(hub) == []


def test_a_folder_that_cannot_be_made(web, tmp_path):
    (tmp_path / 'home').write_text('a file')
    with pytest.raises(UserError, match='cannot be kept in .*TORCH_HOME'):
        download(web.url('x.pth'))


def test_an_interrupt_leaves_nothing(web, hub, monkeypatch):
    web.files['x.pth'] = CONTENT

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, '_copy', interrupted)
    with pytest.raises(KeyboardInterrupt):
        download(web.url('x.pth'))
    assert left(hub) == []


def test_of_several_processes_one_downloads(web, hub):
    """Without torch.distributed; one is killed half-way, and the next takes its place."""
    web.files['x.pth'] = CONTENT
    web.wait = 60.0
    fork = multiprocessing.get_context('fork')
    results = fork.Queue()

    def start() -> multiprocessing.Process:
        process = fork.Process(target=lambda: results.put(str(download(web.url('x.pth')))))
        process.start()
        return process

    killed = start()
    while not web.asked:
        assert killed.is_alive()
        time.sleep(0.02)
    web.wait = 0.5
    others = [start() for _ in range(4)]
    time.sleep(0.3)
    assert web.asked == ['x.pth'] and all(process.is_alive() for process in others)
    killed.kill()
    for process in others:
        process.join(timeout=60)
        assert process.exitcode == 0
        assert Path(results.get(timeout=60)).read_bytes() == CONTENT
    assert web.asked == ['x.pth'] * 2
    assert left(hub) == ['x.pth']


def test_a_checkpoint_comes_through(web, tmp_path):
    from mmvheat.checkpoint import read_checkpoint

    weights = {'a': torch.randn(300, 7)}
    torch.save({'state_dict': weights}, tmp_path / 'x.pth')
    web.files['x.pth'] = (tmp_path / 'x.pth').read_bytes()
    read = read_checkpoint(download(web.url('x.pth')))
    assert torch.equal(read['state_dict']['a'], weights['a'])
