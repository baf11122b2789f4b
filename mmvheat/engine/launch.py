"""torchrun for ``tools/dist_train.sh`` and ``tools/dist_test.sh``.

    python -m mmvheat.engine.launch PROCESSES SCRIPT [ARGUMENT ...]

Reads NNODES, NODE_RANK, MASTER_ADDR and PORT. A mistake of the user, which the script reports in
one line with exit status 2, stays one line: torchrun alone adds its own report.
"""

import logging
import os
import sys

import torch
from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from .errors import CommandLineError, run_command
from .process_group import uses_cpu

__all__ = ['main']

_STATUS_OF_MISTAKES = 2


def _check_processes(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise CommandLineError(f'the number of processes must be an integer >= 1, got {text!r}')
    processes = int(text)
    if not uses_cpu() and processes > torch.cuda.device_count():
        raise CommandLineError(
            f'{processes} processes need as many GPUs and there are {torch.cuda.device_count()}; '
            'CUDA_VISIBLE_DEVICES=-1 runs them on the CPU'
        )
    return processes


def _torchrun_arguments(processes: int) -> list[str]:
    """Translate OpenMMLab's environment variables."""
    env = os.environ
    nodes = env.get('NNODES', '1')
    arguments = [f'--nproc-per-node={processes}', f'--nnodes={nodes}']
    if nodes == '1' and 'PORT' not in env and 'MASTER_ADDR' not in env:
        # A free port, so that two runs on a machine do not clash.
        return [*arguments, '--standalone']
    return [
        *arguments,
        f'--node-rank={env.get("NODE_RANK", "0")}',
        f'--master-addr={env.get("MASTER_ADDR", "127.0.0.1")}',
        f'--master-port={env.get("PORT", "29500")}',
    ]


def _hide_mistakes(record: logging.LogRecord) -> bool:
    """Whether a line of torchrun's is about more than a mistake already reported."""
    text = record.getMessage()
    return f'exitcode: {_STATUS_OF_MISTAKES})' not in text and 'closing signal SIGTERM' not in text


def main() -> None:
    """Run ``SCRIPT`` in as many processes as the command line says."""
    processes = _check_processes(sys.argv[1])
    threads = max(1, len(os.sched_getaffinity(0)) // processes) if uses_cpu() else 1
    for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
        os.environ.setdefault(name, str(threads))
    logging.getLogger('torch.distributed.elastic.multiprocessing.api').addFilter(_hide_mistakes)
    try:
        run.main([*_torchrun_arguments(processes), *sys.argv[2:]])
    except ChildFailedError as error:
        statuses = {failure.exitcode for failure in error.failures.values()}
        if _STATUS_OF_MISTAKES in statuses:
            raise SystemExit(_STATUS_OF_MISTAKES) from None
        raise


if __name__ == '__main__':
    sys.exit(run_command(main))
