import os
from pathlib import Path

import pytest
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmvheat.engine.errors import CommandLineError
from mmvheat.engine.process_group import end_group, start_cpu_group


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
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR'):
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
    assert _gloo_threads() > 0
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
    with pytest.raises(CommandLineError, match=f'--launcher {launcher}.* {variable} is missing'):
        start_cpu_group(launcher)
