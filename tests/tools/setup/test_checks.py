"""What the set-up asks of the machine: one clear line for what is missing, nothing begun."""

from collections import namedtuple

import pytest


@pytest.fixture
def checks(scripts):
    return scripts('checks')


@pytest.mark.parametrize('version', [(3, 6, 9), (3, 10, 0), (3, 12, 1)])
def test_wrong_python(setup_env, places, call, monkeypatch, version):
    monkeypatch.setattr(setup_env.check_python, '__defaults__', (version, '/opt/python', 'linux'))
    status, error = call()
    assert status == 2
    assert f'/opt/python is Python 3.{version[1]}' in error and '3.11' in error
    assert not places.VENV.exists()


def test_wrong_system(checks):
    with pytest.raises(checks.SetupError, match='darwin.*Linux'):
        checks.check_python((3, 11, 7), '/opt/python', 'darwin')


def test_no_compiler(setup_env, places, call, monkeypatch):
    monkeypatch.setenv('PATH', '')
    monkeypatch.delenv('CXX', raising=False)
    monkeypatch.setattr(setup_env, 'check_disk', lambda: True)
    status, error = call()
    assert status == 2
    assert 'no C++ compiler (c++)' in error and 'apt install g++' in error
    assert not places.VENV.exists()


def test_compiler_without_cpp17(checks, tmp_path, monkeypatch):
    compiler = tmp_path / 'old-c++'
    compiler.write_text('#!/bin/sh\necho "unrecognized -std=c++17"\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv('CXX', str(compiler))
    with pytest.raises(checks.SetupError, match=r'old-c\+\+ cannot compile.*unrecognized'):
        checks.check_compiler()


def test_no_python_headers(checks, tmp_path, monkeypatch):
    monkeypatch.setenv('CXX', 'true')
    paths = {'include': str(tmp_path)}
    monkeypatch.setattr(checks.sysconfig, 'get_paths', lambda: paths)
    with pytest.raises(checks.SetupError, match='no Python.h'):
        checks.check_compiler()


@pytest.fixture
def disk(checks, monkeypatch):
    """One disk for everything: `disk(gigabytes)` says what is free on it."""

    def free(gigabytes):
        usage = namedtuple('usage', 'free')(gigabytes * 1e9)
        monkeypatch.setattr(checks.shutil, 'disk_usage', lambda _: usage)

    monkeypatch.setattr(checks, 'disk_of', lambda _: 1)
    return free


def test_full_disk(disk, call, places):
    disk(1.5)
    status, error = call()
    assert status == 2
    assert '1.5 GB free' in error and 'needs 7.2 GB' in error and 'TMPDIR' in error
    assert not places.VENV.exists()
