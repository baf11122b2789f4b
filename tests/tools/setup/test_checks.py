"""What the set-up asks of the machine: one clear line for what is missing, nothing begun."""

from collections import namedtuple

import pytest


@pytest.mark.parametrize('version', [(3, 6, 9), (3, 9, 18), (3, 14, 0)])
def test_wrong_python(scripts, version):
    checks = scripts('setup_env')
    with pytest.raises(checks.SetupError, match=rf'/opt/python is Python 3\.{version[1]}.*PYTHON='):
        checks.check_python(version, '/opt/python')


def test_wrong_system(scripts):
    checks = scripts('setup_env')
    with pytest.raises(checks.SetupError, match='darwin.*Linux.*pip install'):
        checks.check_python((3, 11, 7), '/opt/python', 'darwin')


@pytest.mark.parametrize(
    ('compiler', 'reason'),
    [
        ('/no/such/c++', 'No such file'),
        ('old-c++', 'unrecognized -std'),
    ],
)
def test_no_compiler(scripts, tmp_path, monkeypatch, compiler, reason):
    wheels = scripts('wheels')
    script = tmp_path / 'old-c++'
    script.write_text('#!/bin/sh\necho "unrecognized -std=c++17"\nexit 1\n')
    script.chmod(0o755)
    monkeypatch.setenv('CXX', str(tmp_path / compiler))
    with pytest.raises(wheels.SetupError, match=f'{reason}.*apt install.*MMCV=lite'):
        wheels.check_compiler()


def test_full_disk(scripts, places, monkeypatch):
    """What lies in the cache already need not be downloaded."""
    checks = scripts('setup_env')
    usage = namedtuple('usage', 'free')(1.5e9)
    monkeypatch.setattr(checks.shutil, 'disk_usage', lambda _: usage)
    with pytest.raises(checks.SetupError, match=r'1\.5 GB free.*UV_CACHE_DIR='):
        checks.check_disk({'TORCH': 'pypi'})
    cache = places.user_cache('uv', 'UV_CACHE_DIR')
    cache.mkdir()
    with (cache / 'torch').open('wb') as file:
        file.truncate(int(5e9))
    checks.check_disk({'TORCH': 'pypi'})
