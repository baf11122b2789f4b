"""Commands of the set-up: their environment, and one line when they fail."""

import time
from pathlib import Path

import pytest


@pytest.fixture
def processes(scripts):
    return scripts('processes')


@pytest.mark.parametrize(
    ('output', 'expected'),
    [
        ('OSError: [Errno 28] No space left on device', 'the disk is full'),
        (
            'Temporary failure in name resolution\nERROR: No matching distribution found for a',
            'index',
        ),
        ('ERROR: No matching distribution found for torch==9', 'distribution found for torch==9'),
        ('c++: fatal error: Killed signal terminated program cc1plus', 'MAX_JOBS=1'),
        ('x.cpp:3:10: fatal error: y.h: No such file or directory', 'y.h: No such file'),
        ("ModuleNotFoundError: No module named 'pkg_resources'", 'pkg_resources'),
        ('some words\n  error: invalid command bdist_wheel', 'invalid command bdist_wheel'),
        ('nothing known', 'sh stopped with status 3'),
    ],
)
def test_failing_command_gives_one_line(
    stack, setup_env, processes, call, monkeypatch, output, expected
):
    command = ['sh', '-c', 'printf "%s\n" "$0"; exit 3', output]
    monkeypatch.setattr(setup_env, 'set_up', lambda: processes.run(command))
    status, error = call()
    assert status == 2
    assert expected in error and f'(log: {stack.LOG})' in error
    assert output in stack.LOG.read_text()


def test_interrupt_ends_the_children(stack, setup_env, processes, call, monkeypatch, tmp_path):
    pid_file = tmp_path / 'pid'
    script = f'touch $TMPDIR/object.o; sleep 60 & echo $! > {pid_file}; wait'
    command = ['sh', '-c', script]
    monkeypatch.setattr(processes.tempfile, 'tempdir', str(tmp_path / 'scratch'))
    (tmp_path / 'scratch').mkdir()

    def words(output, elapsed):
        if pid_file.exists():
            raise KeyboardInterrupt
        return ''

    monkeypatch.setattr(setup_env, 'set_up', lambda: processes.run(command, words))
    status, error = call()
    assert status == 2 and 'interrupted' in error
    assert not list((tmp_path / 'scratch').iterdir())
    state = Path('/proc') / pid_file.read_text().strip() / 'stat'
    deadline = time.monotonic() + 5
    while state.exists() and state.read_text().split()[2] != 'Z' and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not state.exists() or state.read_text().split()[2] == 'Z'
