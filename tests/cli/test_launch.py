"""How OpenMMLab's environment variables reach torchrun."""

import os
import platform
import subprocess
import sys

import pytest

from mmvheat.cli import launch
from mmvheat.cli.command import run_command
from mmvheat.engine.distributed import LAUNCHER

NAMES = ('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'PORT')
THREADS = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')
MEMORY = ('MALLOC_MMAP_MAX_', 'MALLOC_TRIM_THRESHOLD_')
GIVEN = (*THREADS, *MEMORY, 'MALLOC_MMAP_THRESHOLD_', 'GLIBC_TUNABLES', LAUNCHER)


@pytest.fixture
def torchrun(monkeypatch):
    """Stand in for torchrun and start it with the given environment."""
    calls = []
    monkeypatch.setattr(launch.run, 'main', calls.append)
    for name in ('CUDA_VISIBLE_DEVICES', *GIVEN, *NAMES):
        monkeypatch.setenv(name, '')  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')

    def start(processes='2', **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, 'argv', ['launch', processes, 'train.py', 'config.py', '--amp'])
        status = run_command(launch.main)
        return status, calls

    return start


@pytest.mark.parametrize(
    ('environment', 'expected'),
    [
        ({}, ['--nnodes=1', '--standalone']),
        # Empty is unset, as `NNODES=$UNSET bash dist_train.sh` makes it.
        (dict.fromkeys(NAMES, ''), ['--nnodes=1', '--standalone']),
        (
            dict(PORT='29511'),
            ['--nnodes=1', '--node-rank=0', '--master-addr=127.0.0.1', '--master-port=29511'],
        ),
        (
            dict(NNODES='3', NODE_RANK='2', MASTER_ADDR='10.0.0.7'),
            ['--nnodes=3', '--node-rank=2', '--master-addr=10.0.0.7', '--master-port=29500'],
        ),
        (
            dict(NNODES='1', NODE_RANK='0', MASTER_ADDR='node-a', PORT='1'),
            ['--nnodes=1', '--node-rank=0', '--master-addr=node-a', '--master-port=1'],
        ),
    ],
)
def test_the_environment_becomes_arguments(torchrun, capsys, environment, expected):
    status, calls = torchrun(**environment)
    assert status == 0
    assert calls == [['--nproc-per-node=2', *expected, 'train.py', 'config.py', '--amp']]
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
    ('environment', 'said'),
    [
        (dict(processes='two'), "processes must be an integer >= 1, got 'two'"),
        (dict(processes='0'), "got '0'"),
        (dict(NNODES='two'), "NNODES is an integer from 1 to 65535, got 'two'"),
        (dict(NNODES='0'), "NNODES is an integer from 1 to 65535, got '0'"),
        (dict(NNODES='1:4', NODE_RANK='0'), "got '1:4'"),
        (dict(NNODES='2'), 'NNODES=2 needs NODE_RANK: 0 on the node of MASTER_ADDR, then 1 to 1'),
        (dict(NNODES='2', NODE_RANK=''), 'needs NODE_RANK'),
        (dict(NNODES='2', NODE_RANK='2'), 'count from 0 to 1; set NNODES'),
        (dict(NODE_RANK='1'), 'NODE_RANK=1 with NNODES=1: '),
        (dict(NNODES='2', NODE_RANK='-1'), "got '-1'"),
        (dict(PORT='http'), "PORT is an integer from 1 to 65535, got 'http'"),
        (dict(PORT='65536'), "got '65536'"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(torchrun, capsys, environment, said):
    status, calls = torchrun(**environment)
    error = capsys.readouterr().err
    assert (status, calls) == (2, [])
    assert error.startswith('error: ') and error.count('\n') == 1
    assert said in error


def test_nodes_without_an_address_are_warned_of(torchrun, capsys):
    status, calls = torchrun(NNODES='2', NODE_RANK='1')
    assert status == 0
    assert '--master-addr=127.0.0.1' in calls[0]
    assert capsys.readouterr().err.startswith('warning: MASTER_ADDR is not set')


def test_the_gpus_of_this_node_are_counted(torchrun, capsys, monkeypatch):
    monkeypatch.setattr(launch, 'uses_cpu', lambda: False)
    monkeypatch.setattr(launch.torch.cuda, 'device_count', lambda: 4)
    status, calls = torchrun('8', NNODES='2', NODE_RANK='0', MASTER_ADDR='a')
    assert (status, calls) == (2, [])
    assert '8 processes need as many GPUs and there are 4 on this node' in capsys.readouterr().err
    assert torchrun('4')[0] == 0


@pytest.mark.parametrize('on_cpu', [True, False])
def test_processes_share_the_cores_and_keep_their_memory_on_a_cpu(torchrun, monkeypatch, on_cpu):
    monkeypatch.setattr(launch.os, 'sched_getaffinity', lambda _: range(6))
    monkeypatch.setattr(launch, 'uses_cpu', lambda: on_cpu)
    monkeypatch.setattr(launch.torch.cuda, 'device_count', lambda: 2)
    torchrun('2', MKL_NUM_THREADS='5')
    assert [os.environ[name] for name in THREADS] == ['3' if on_cpu else '1', '5']
    assert [name in os.environ for name in MEMORY] == [on_cpu] * 2


@pytest.mark.parametrize(
    'given',
    [
        dict(MALLOC_TRIM_THRESHOLD_='7'),
        dict(MALLOC_MMAP_THRESHOLD_='7'),
        dict(MALLOC_MMAP_MAX_='7'),
        dict(GLIBC_TUNABLES='glibc.malloc.mmap_threshold=7'),
    ],
)
def test_what_the_caller_said_about_memory_stays_alone(torchrun, given):
    torchrun(**given)
    assert {name: os.environ[name] for name in GIVEN[2:-1] if name in os.environ} == given


def test_tunables_of_another_kind_leave_memory_to_us(torchrun):
    torchrun(GLIBC_TUNABLES='glibc.cpu.x86_ibt=off')
    assert all(name in os.environ for name in MEMORY)


# Prints, for blocks of 1 to 5000 MB: how many of them came from mmap, and the resident MB that
# went away when they were freed.
ALLOCATE = """
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
names = 'arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost'.split()
libc.mallinfo.restype = type(
    'mallinfo', (ctypes.Structure,), dict(_fields_=[(name, ctypes.c_int) for name in names])
)
resident = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096 >> 20
for megabytes in (1, 16, 31, 33, 65, 300, 5000):
    before = libc.mallinfo().hblks
    block = libc.malloc(megabytes << 20)
    mapped = libc.mallinfo().hblks - before
    ctypes.memset(block, 1, min(megabytes, 300) << 20)
    full = resident()
    libc.free(block)
    print(mapped, full - resident())
"""


def test_the_c_library_does_what_the_settings_say():
    if not any('glibc' in part for part in platform.libc_ver()):
        pytest.skip('the settings are for glibc')

    def allocate(settings):
        env = {name: value for name, value in os.environ.items() if name not in GIVEN}
        command = [sys.executable, '-c', ALLOCATE]
        done = subprocess.run(command, env={**env, **settings}, capture_output=True, check=True)
        return [tuple(map(int, line.split())) for line in done.stdout.splitlines()]

    kept = allocate(launch._KEEP_MEMORY)
    assert [mapped for mapped, _ in kept] == [0] * 7
    assert max(returned for _, returned in kept) <= 1
    assert [mapped for mapped, _ in allocate({})] == [1] * 7, 'the library does so by itself'
