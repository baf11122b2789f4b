"""Processes of a run: the start of their group without a GPU, and their end."""

import ctypes
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn

__all__ = [
    'LAUNCHER',
    'die_with_launcher',
    'end_group',
    'start_cpu_group',
    'start_loader_worker',
    'unwrapped',
    'uses_cpu',
]

# Environment variable by which launch.py tells its processes its own id.
LAUNCHER = 'MMVHEAT_LAUNCHER'
_PR_SET_PDEATHSIG = 1


def unwrapped(model: nn.Module) -> nn.Module:
    """Take a model out of the wrappers around it: distributed ones, test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _die_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it ends, however it ends."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with_launcher() -> None:
    """Let this process end with launch.py, if that started it.

    torchrun ends its processes when it gets a signal that it can handle; one that is killed by
    SIGKILL (by a job's memory limit, say) would leave them to go on alone.
    """
    launcher = os.environ.pop(LAUNCHER, None)
    if launcher is None:
        return
    _die_with_parent()
    # It may have ended before the request.
    if os.getppid() != int(launcher):
        os._exit(1)


def start_loader_worker(init: Callable[[int], None] | None, worker: int) -> None:
    """Let a data loader's worker end with its process at once, then do what it is set up for.

    Args:
        init: The loader's own ``worker_init_fn``.
        worker: Number of the worker.
    """
    _die_with_parent()
    if init is not None:
        init(worker)


def uses_cpu() -> bool:
    """Whether mmengine will run on the CPU (``CUDA_VISIBLE_DEVICES=-1`` asks for it)."""
    from mmengine.device import get_device

    return get_device() == 'cpu'


def _first_slurm_node() -> str:
    """Address of the first node of a slurm step, as mmengine finds it on GPUs."""
    nodes = os.environ.get('SLURM_NODELIST', '')
    if not set(nodes) & set('[,'):
        return '127.0.0.1'  # one node, this one
    command = ['scontrol', 'show', 'hostnames', nodes]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        from mmvheat.errors import UserError

        raise UserError(
            f'--launcher slurm: "{" ".join(command)}" does not tell the first of the nodes: '
            'set MASTER_ADDR to its address'
        ) from error


def start_cpu_group(launcher: str, timeout: float | None = None, port: int | None = None) -> None:
    """Start a gloo group from the launcher's environment, unless a group runs already.

    mmengine's own start calls ``torch.cuda.set_device``, which raises without a GPU. It skips it
    when a group exists.

    Args:
        launcher: 'pytorch' (torchrun), 'slurm' or 'mpi' (Open MPI).
        timeout: Seconds until a collective call gives up; torch's default if None.
        port: Port of rank 0 for slurm, as mmengine takes it; MASTER_PORT or 29500 if None.

    Raises:
        UserError: If the launcher's environment variables are missing.
    """
    if dist.is_initialized():
        return
    env = os.environ
    names = {
        'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
        'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
    }.get(launcher, ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'))
    for name, source in zip(('RANK', 'WORLD_SIZE', 'LOCAL_RANK'), names, strict=True):
        if source not in env:
            from mmvheat.errors import UserError

            raise UserError(
                f'--launcher {launcher}: the environment variable {source} is missing; start '
                'through the launcher (tools/dist_train.sh and tools/dist_test.sh for pytorch)'
            )
        env[name] = env[source]
    if 'MASTER_ADDR' not in env:
        env['MASTER_ADDR'] = _first_slurm_node() if launcher == 'slurm' else '127.0.0.1'
    if launcher == 'slurm' and port is not None:
        env['MASTER_PORT'] = str(port)
    env.setdefault('MASTER_PORT', '29500')
    torch.set_num_threads(int(env.get('OMP_NUM_THREADS', 1)))
    wait = None if timeout is None else timedelta(seconds=timeout)
    dist.init_process_group('gloo', timeout=wait)


def end_group() -> None:
    """End the group, if there is one, once all processes are done.

    Drop the Runner first: its model keeps the group's threads alive. One that then needs the
    interpreter's lock while that shuts down aborts the process (``terminate called without an
    active exception``), and a run that went well would end as a failure.
    """
    if dist.is_initialized():
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()
