"""torchrun for ``tools/dist_train.sh`` and ``tools/dist_test.sh``.

    python -m mmvheat.cli.launch PROCESSES SCRIPT [ARGUMENT ...]

PROCESSES are those of this node; NNODES, NODE_RANK, MASTER_ADDR and PORT are read from the
environment. A mistake of the user, which the script reports in one line with exit status 2, stays
one line: torchrun alone adds its own report.
"""

import logging
import os
import sys

import torch
from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from mmvheat.engine.distributed import LAUNCHER, uses_cpu
from mmvheat.errors import UserError

from .command import MISTAKE, run_command

__all__ = ['main', 'process_environment']

# Else glibc gives large tensors back to the system in every layer and asks for cleared ones anew.
# No block is mapped by itself: a high MALLOC_MMAP_THRESHOLD_ says so only to glibc >= 2.35, older
# ones refuse more than 32 MiB. And free memory is never given back: the largest number there is, as
# a `size_t` and through the `atoi` of glibc < 2.26. Other C libraries do not read these.
_KEEP_MEMORY = {'MALLOC_MMAP_MAX_': '0', 'MALLOC_TRIM_THRESHOLD_': str(2**63 - 1)}
# Settings of the user's that these would change the meaning of.
_MEMORY_SETTINGS = ('MALLOC_MMAP_MAX_', 'MALLOC_MMAP_THRESHOLD_', 'MALLOC_TRIM_THRESHOLD_')


def _check_processes(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f'the number of processes must be an integer >= 1, got {text!r}')
    processes = int(text)
    if not uses_cpu() and processes > torch.cuda.device_count():
        raise UserError(
            f'{processes} processes need as many GPUs and there are {torch.cuda.device_count()} '
            'on this node; CUDA_VISIBLE_DEVICES=-1 runs them on the CPU'
        )
    return processes


def _read_integer(name: str, default: int, least: int, most: int) -> int:
    """Read an environment variable; unset and empty are the same."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or not least <= int(text) <= most:
        raise UserError(f'{name} is an integer from {least} to {most}, got {text!r}')
    return int(text)


def _torchrun_arguments(processes: int) -> list[str]:
    """Translate OpenMMLab's environment variables."""
    env = os.environ
    nodes = _read_integer('NNODES', 1, 1, 65535)
    # Two nodes that both take 0 for granted would wait for each other.
    if nodes > 1 and not env.get('NODE_RANK'):
        raise UserError(
            f'NNODES={nodes} needs NODE_RANK: 0 on the node of MASTER_ADDR, then 1 to {nodes - 1}'
        )
    if _read_integer('NODE_RANK', 0, 0, 65535) >= nodes:
        raise UserError(
            f'NODE_RANK={env["NODE_RANK"]} with NNODES={nodes}: ranks of nodes count from 0 to '
            f'{nodes - 1}; set NNODES to the number of nodes'
        )
    arguments = [f'--nproc-per-node={processes}', f'--nnodes={nodes}']
    if nodes == 1 and not env.get('PORT') and not env.get('MASTER_ADDR'):
        # A free port, so that two runs on a machine do not clash.
        return [*arguments, '--standalone']
    if nodes > 1 and not env.get('MASTER_ADDR'):
        sys.stderr.write(
            'warning: MASTER_ADDR is not set: 127.0.0.1 finds only nodes on this machine; '
            'set it to the address of node 0\n'
        )
    return [
        *arguments,
        f'--node-rank={env.get("NODE_RANK") or 0}',
        f'--master-addr={env.get("MASTER_ADDR") or "127.0.0.1"}',
        f'--master-port={_read_integer("PORT", 29500, 1, 65535)}',
    ]


def process_environment(processes: int) -> dict[str, str]:
    """Say which variables processes of this machine run best with, where none are set.

    Args:
        processes: How many run at a time.
    """
    on_cpu = uses_cpu()
    threads = str(max(1, len(os.sched_getaffinity(0)) // processes) if on_cpu else 1)
    tuned = 'glibc.malloc.' in os.environ.get('GLIBC_TUNABLES', '')
    chosen = tuned or any(name in os.environ for name in _MEMORY_SETTINGS)
    keep_memory = _KEEP_MEMORY if on_cpu and not chosen else {}
    return {'OMP_NUM_THREADS': threads, 'MKL_NUM_THREADS': threads, **keep_memory}


def _hide_mistakes(record: logging.LogRecord) -> bool:
    """Whether a line of torchrun's is about more than a mistake already reported."""
    text = record.getMessage()
    return f'exitcode: {MISTAKE})' not in text and 'closing signal SIGTERM' not in text


def main() -> None:
    """Run ``SCRIPT`` in as many processes as the command line says."""
    processes = _check_processes(sys.argv[1])
    for name, value in process_environment(processes).items():
        os.environ.setdefault(name, value)
    os.environ[LAUNCHER] = str(os.getpid())
    logging.getLogger('torch.distributed.elastic.multiprocessing.api').addFilter(_hide_mistakes)
    try:
        run.main([*_torchrun_arguments(processes), *sys.argv[2:]])
    except ChildFailedError as error:
        statuses = {failure.exitcode for failure in error.failures.values()}
        if MISTAKE in statuses:
            raise SystemExit(MISTAKE) from None
        raise


if __name__ == '__main__':
    sys.exit(run_command(main))
