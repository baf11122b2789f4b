import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmvheat.engine.distributed import LAUNCHER, end_group, start_cpu_group
from mmvheat.errors import UserError


def _gloo_threads() -> int:
    tasks = Path('/proc/self/task').iterdir()
    return sum('gloo' in (task / 'comm').read_text() for task in tasks)


@pytest.mark.parametrize(
    ('launcher', 'names'),
    [
        ('pytorch', ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')),
        ('slurm', ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID')),
        (
            'mpi',
            ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
        ),
    ],
)
def test_a_group_starts_and_leaves_no_thread(launcher, names, monkeypatch):
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'SLURM_NODELIST'):
        monkeypatch.setenv(name, '')  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setenv('MASTER_PORT', '0')
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    for name, value in zip(names, '010', strict=True):
        monkeypatch.setenv(name, value)
    start_cpu_group(launcher, timeout=20)
    start_cpu_group(launcher)
    assert dist.get_backend() == 'gloo'
    assert os.environ['LOCAL_RANK'] == '0'
    model = DistributedDataParallel(nn.Linear(2, 2))
    model.cycle = [model]  # as a Runner and its hooks are
    assert _gloo_threads() > 0 or torch.__version__ < (2, 7), 'older ones give them no names'
    del model
    end_group()
    assert not dist.is_initialized()
    assert _gloo_threads() == 0
    end_group()


@pytest.mark.parametrize(
    ('launcher', 'variable'),
    [('pytorch', 'RANK'), ('slurm', 'SLURM_PROCID'), ('mpi', 'OMPI_COMM_WORLD_RANK')],
)
def test_a_launcher_that_did_not_launch(launcher, variable, monkeypatch):
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match=f'--launcher {launcher}.* {variable} is missing'):
        start_cpu_group(launcher)


@pytest.fixture
def slurm(monkeypatch):
    """Start a group of one as a slurm step; torch's own start is only noted."""
    started = []
    monkeypatch.setattr(dist, 'init_process_group', lambda *args, **_: started.append(args))
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.setenv(name, '')  # so that it is restored
        monkeypatch.delenv(name)
    for name, value in dict(PROCID='3', NTASKS='4', LOCALID='1').items():
        monkeypatch.setenv(f'SLURM_{name}', value)

    def start(nodes, port=None):
        monkeypatch.setenv('SLURM_NODELIST', nodes)
        start_cpu_group('slurm', port=port)
        return os.environ['MASTER_ADDR'], os.environ['MASTER_PORT'], len(started)

    return start


def test_the_first_slurm_node_is_the_master(slurm, monkeypatch, tmp_path):
    scontrol = tmp_path / 'scontrol'
    scontrol.write_text('#!/bin/sh\necho "$@" > "$0.seen"\nprintf "gpu7\\ngpu9\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    assert slurm('gpu[7,9]') == ('gpu7', '29500', 1)
    assert (tmp_path / 'scontrol.seen').read_text() == 'show hostnames gpu[7,9]\n'
    assert (os.environ['RANK'], os.environ['LOCAL_RANK']) == ('3', '1')


def test_one_slurm_node_is_this_one(slurm):
    assert slurm('gpu7', port=29511) == ('127.0.0.1', '29511', 1)


def test_slurm_settings_of_the_user_are_kept(slurm, monkeypatch):
    monkeypatch.setenv('MASTER_ADDR', 'elsewhere')
    monkeypatch.setenv('MASTER_PORT', '29512')
    assert slurm('gpu[7,9]') == ('elsewhere', '29512', 1)


def test_slurm_nodes_that_nobody_can_name(slurm, monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(UserError, match='scontrol show hostnames gpu.*set MASTER_ADDR'):
        slurm('gpu[7,9]')


# A launcher, its process, and the worker of its data loader. Each prints its id.
LAUNCHED = """
import os, time
from mmvheat.engine.distributed import LAUNCHER, die_with_launcher, start_loader_worker
os.environ[LAUNCHER] = str(os.getpid())
# One write a line: two processes share the pipe.
say = lambda number: os.write(1, f'{os.getpid()} {number}\\n'.encode())
if os.fork() == 0:
    die_with_launcher()
    assert LAUNCHER not in os.environ
    if os.fork() == 0:
        start_loader_worker(say, 7)
    else:
        say(0)
time.sleep(120)
"""


def _ends(pid: int) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if 'State:\tZ' in Path(f'/proc/{pid}/status').read_text():
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.skipif(sys.platform != 'linux', reason='asks Linux')
def test_nothing_outlives_a_killed_launcher():
    launcher = subprocess.Popen([sys.executable, '-c', LAUNCHED], stdout=subprocess.PIPE, text=True)
    lines = [launcher.stdout.readline().split() for _ in range(2)]
    assert {number for _, number in lines} == {'7', '0'}
    launcher.send_signal(signal.SIGKILL)
    assert all(_ends(int(pid)) for pid, _ in lines)
    launcher.communicate(timeout=30)


def test_a_launcher_that_ended_before_is_noticed():
    code = 'from mmvheat.engine.distributed import die_with_launcher as f; f(); print("alive")'
    for launcher, said in ((None, 'alive\n'), (str(os.getpid()), 'alive\n'), ('1', '')):
        env = dict(os.environ) | ({LAUNCHER: launcher} if launcher else {})
        done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
        assert (done.stdout, done.returncode) == (said, 0 if said else 1), done.stderr
