"""The one guard: what the user can mend is one line; a bug keeps its traceback."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mmvheat.cli.command import run_command
from mmvheat.errors import UserError

ROOT = Path(__file__).parents[2]


def raising(error):
    def main():
        raise error

    return main


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ('MMVHEAT_TRACEBACK', 'RANK', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize('returned', [None, 0, 1, 7])
def test_the_status_is_the_commands(returned, capsys):
    assert run_command(lambda: returned) == (returned or 0)
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize(
    ('error', 'said'),
    [
        (UserError('--size is one or\ntwo numbers, got 3'), '--size is one or two numbers, got 3'),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'out.pth'), 'out.pth: No space left'),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), 'Read-only file system'),
        (PermissionError(errno.EACCES, 'Permission denied', 'a.log'), 'a.log: Permission denied'),
        (MemoryError(), 'out of memory in: '),
        (torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a'), ''),
    ],
)
def test_what_the_user_can_mend_is_one_line(error, said, capsys):
    assert run_command(raising(error)) == 2
    line = capsys.readouterr().err
    assert line.startswith('error: ') and line.count('\n') == 1 and line.endswith('\n')
    assert said in line


@pytest.mark.parametrize('ask', [lambda: torch.empty(10**15), lambda: np.empty(10**15)])
def test_memory_that_is_not_there(ask, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tools/test.py', 'config.py', 'weights.pth'])
    assert run_command(ask) == 2
    line = capsys.readouterr().err
    assert line.startswith('error: out of memory (') and line.count('\n') == 1
    assert 'in: test.py config.py weights.pth; use smaller' in line
    assert 'bytes' in line or 'PiB' in line


@pytest.mark.parametrize(
    'error',
    [
        ValueError('too many values to unpack'),
        TypeError('a bug'),
        KeyError('a bug'),
        RuntimeError('shapes do not match'),
        FileNotFoundError(errno.ENOENT, 'No such file', 'ours.json'),
        ImportError('a bug'),
    ],
)
def test_a_bug_is_let_through(error, capsys):
    with pytest.raises(type(error)) as raised:
        run_command(raising(error))
    assert raised.value is error
    assert capsys.readouterr().err == ''


def test_the_traceback_can_be_had(monkeypatch, capsys):
    monkeypatch.setenv('MMVHEAT_TRACEBACK', '1')
    assert run_command(raising(UserError('no such arch'))) == 2
    *traceback, line = capsys.readouterr().err.splitlines()
    assert traceback[0].startswith('Traceback') and 'raise error' in '\n'.join(traceback)
    assert line == 'error: no such arch'


@pytest.mark.parametrize(
    ('stop', 'line'),
    [
        (KeyboardInterrupt(), 'error: interrupted\n'),
        (KeyboardInterrupt('the data root is as it was'), 'error: interrupted: the data root is'),
    ],
)
def test_an_interrupt(stop, line, capsys):
    assert run_command(raising(stop)) == 128 + signal.SIGINT
    assert capsys.readouterr().err.startswith(line)


def test_the_first_of_several_processes_speaks_first(monkeypatch, capsys):
    waits = []
    monkeypatch.setattr(time, 'sleep', waits.append)
    monkeypatch.setenv('RANK', '1')
    assert run_command(raising(UserError('no'))) == 2
    assert waits and waits[0] > 5


@pytest.mark.parametrize('lines', [1, 100_000])
def test_a_reader_who_is_gone_is_no_error(lines):
    """Also where all output fits the buffer, which is flushed at the end."""
    code = (
        'import sys; from mmvheat.cli.command import run_command\n'
        'sys.stdin.read()\n'
        f'sys.exit(run_command(lambda: print("line\\n" * {lines})))'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', code],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == b''
    assert process.wait(timeout=60) == 128 + signal.SIGPIPE
