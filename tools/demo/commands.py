"""Run one command of the demo: progress on the screen, everything it prints in a log file."""

import re
import subprocess
from collections import deque
from pathlib import Path

from progress import StepProgress
from rich.console import Console

from mmvheat.errors import UserError

__all__ = ['run_command']

_ITERATION = re.compile(r'Iter\(\w+\)\s+\[\s*(?P<done>\d+)/(?P<total>\d+)\]')
_LOSS = re.compile(r'\bloss: (?P<loss>[\d.]+)')
# The line that ends a traceback, or a mistake that the tools report; torchrun's own come after it.
_CAUSE = re.compile(r'^(?:\[rank\d+\]: )?(?P<cause>(?:[\w.]+(?:Error|Exception)|error): .+)$')


def run_command(command: list[str], cwd: Path, log: Path, console: Console) -> None:
    """Run a command and show how far it is.

    Args:
        command: Program and arguments.
        cwd: Folder to run it in.
        log: File for all that it prints.
        console: Where progress goes.

    Raises:
        UserError: If the command fails; the message says why.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    causes: deque[str] = deque(maxlen=1)
    process = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )
    try:
        with log.open('w') as file, StepProgress(console, 'iterations') as progress:
            for line in process.stdout:
                file.write(line)
                file.flush()
                iteration, cause = _ITERATION.search(line), _CAUSE.match(line)
                if iteration:
                    loss = _LOSS.search(line)
                    text = f'loss {float(loss["loss"]):.3f}' if loss else ''
                    progress.update(int(iteration['done']), int(iteration['total']), text)
                elif cause and 'ChildFailedError' not in cause['cause']:
                    causes.append(cause['cause'])
        status = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if status:
        cause = causes[-1] if causes else f'status {status}'
        raise UserError(f'{cause} (in `{" ".join(command)}`, log: {log})')
