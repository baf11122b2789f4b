"""Commands of the set-up: pip's settings for uv, and one line when a command fails."""

import os
import sys
import time
from pathlib import Path

import pytest


@pytest.fixture
def processes(scripts, places, monkeypatch):
    places.VENV.mkdir()
    monkeypatch.setattr(places, 'VENV_PYTHON', sys.executable)
    return scripts('processes')


FETCH = 'error: Failed to fetch: https://pypi.org/simple/rich/\n  cause: client error (Connect)\n'


@pytest.mark.parametrize(
    ('output', 'expected'),
    [
        ('OSError: [Errno 28] No space left on device', 'the disk is full.*UV_CACHE_DIR='),
        ('Temporary failure in name resolution\nERROR: No matching distribution for a', 'network'),
        (FETCH + '  cause: dns error\n', 'https://pypi.org/simple/rich/ cannot be reached'),
        (FETCH + '  cause: invalid peer certificate: UnknownIssuer', 'pip config list'),
        ('ERROR: No matching distribution found for torch==9', 'found for torch==9: .* mirror'),
        (
            'error: No solution found\n  cause: Because there is no version of a==1 and you',
            'no version of a==1: is the index a full mirror',
        ),
        (
            'error: Failed to download `a==1`\n  cause: Hash mismatch for `a==1`\n\n  Expected:\n',
            'Failed to download `a==1`: Hash mismatch',
        ),
        ('virtual environment was not created: ensurepip is not available', 'python3-venv'),
        ('c++: fatal error: Killed signal terminated program cc1plus', 'MAX_JOBS=1'),
        ('x.cpp:3:10: fatal error: y.h: No such file or directory', 'y.h: No such file'),
        ("ModuleNotFoundError: No module named 'pkg_resources'", 'pkg_resources.*make clean'),
        ('some words\n  error: invalid command bdist_wheel', 'invalid command bdist_wheel'),
        ('nothing known', 'sh stopped with status 3'),
    ],
)
def test_failing_command_gives_one_line(processes, places, output, expected):
    command = ['sh', '-c', 'printf "%s\n" "$0"; exit 3', output]
    with pytest.raises(processes.SetupError, match=expected) as failure:
        processes.run(command)
    assert '\n' not in str(failure.value) and f'(log: {places.LOG})' in str(failure.value)
    assert output in places.LOG.read_text()


def test_uv_gets_the_settings_of_pip(processes, tmp_path, monkeypatch):
    """The environment before the file, uv's own variables before both."""
    pytest.importorskip('pip', reason='an environment made by uv')
    config = tmp_path / 'pip.conf'
    config.write_text(
        '[global]\nindex-url = https://mirror/simple\ntimeout = 99\nretries = 2\n'
        'extra-index-url =\n  https://one/simple\n  https://two/simple\n'
        'cert = /ca.pem\ntrusted-host = mirror\n'
        '[install]\nproxy = http://proxy:80\n'
    )
    for name in os.environ:
        if name.startswith(('PIP_', 'UV_', 'SSL_')) or name == 'ALL_PROXY':
            monkeypatch.delenv(name)
    monkeypatch.setenv('PIP_CONFIG_FILE', str(config))
    monkeypatch.setenv('PIP_DEFAULT_TIMEOUT', '180')
    monkeypatch.setenv('UV_INSECURE_HOST', 'other')
    found = processes.uv_env()
    found.pop('UV_SYSTEM_CERTS', None)
    assert {name: value for name, value in found.items() if 'STRATEGY' not in name} == {
        'UV_COMPILE_BYTECODE': '1',
        'UV_DEFAULT_INDEX': 'https://mirror/simple',
        'UV_INDEX': 'https://one/simple https://two/simple',
        'UV_HTTP_TIMEOUT': '180',
        'SSL_CERT_FILE': '/ca.pem',
        'ALL_PROXY': 'http://proxy:80',
    }


def test_progress_is_the_last_whole_line(processes):
    assert processes.progress('') == 'working'
    assert (
        processes.progress('  [1/77] c++ a.cpp\n  [2/77] c++ b.cpp\n  [3/77') == '[2/77] c++ b.cpp'
    )
    assert len(processes.progress('x' * 200 + '\n')) < 70


def test_interrupt_ends_the_children(processes, monkeypatch, tmp_path):
    pid_file, scratch = tmp_path / 'pid', tmp_path / 'scratch'
    scratch.mkdir()
    monkeypatch.setattr(processes.tempfile, 'tempdir', str(scratch))

    def progress(output):
        if pid_file.exists():
            raise KeyboardInterrupt
        return ''

    monkeypatch.setattr(processes, 'progress', progress)
    script = f'touch $TMPDIR/object.o; sleep 60 & echo $! > {pid_file}; wait'
    with pytest.raises(KeyboardInterrupt):
        processes.run(['sh', '-c', script])
    assert not list(scratch.iterdir())
    state = Path('/proc') / pid_file.read_text().strip() / 'stat'
    deadline = time.monotonic() + 5
    while state.exists() and state.read_text().split()[2] != 'Z' and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not state.exists() or state.read_text().split()[2] == 'Z'
