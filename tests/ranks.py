"""Run a function of a test module, or command lines, in several gloo processes."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from web import free_port

__all__ = ['run_in_ranks', 'run_scripts_in_ranks']

_CALL = """
import importlib.util, json, sys
sys.path[:0] = {paths!r}
spec = importlib.util.spec_from_file_location('ranks_of_a_test', {path!r})
module = importlib.util.module_from_spec(spec)
sys.modules['ranks_of_a_test'] = module
spec.loader.exec_module(module)
result = getattr(module, {name!r})(*{arguments!r})
with open({out!r}, 'w') as file:
    json.dump(result, file)
"""


def run_in_ranks(
    path: str, name: str, folder: Path, *arguments: Any, ranks: int = 2, timeout: float = 120
) -> list[Any]:
    """Call a function in processes with torchrun's environment, and collect what it returns.

    Args:
        path: File of the module that has the function.
        name: Name of the function.
        folder: Where the results are written.
        arguments: Its arguments, of types whose ``repr`` is code.
        ranks: Number of processes.
        timeout: Seconds until the test fails.

    Returns:
        What each rank returned, which json must be able to write.
    """
    port = free_port()
    tests = Path(__file__).parent
    processes = []
    for rank in range(ranks):
        code = _CALL.format(
            paths=[str(tests.parent), str(tests)],
            path=path,
            name=name,
            arguments=arguments,
            out=str(folder / f'rank{rank}.json'),
        )
        env = dict(
            os.environ,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(ranks),
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=str(port),
            OMP_NUM_THREADS='1',
            CUDA_VISIBLE_DEVICES='-1',
        )
        processes.append(
            subprocess.Popen(
                [sys.executable, '-c', code],
                env=env,
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-3000:]
    return [json.loads((folder / f'rank{rank}.json').read_text()) for rank in range(ranks)]


def run_scripts_in_ranks(
    folder: Path, *commands: tuple[object, ...], timeout: float = 240
) -> list[list[tuple[int, str]]]:
    """Run command lines in two processes that import the libraries once for all of them.

    Args:
        folder: Where they run.
        commands: The script of each, such as ``tools/train.py``, and its arguments.
        timeout: Seconds until the test fails.

    Returns:
        What each rank had, for each command: its exit status and what it wrote to stderr.
    """
    words = [[str(word) for word in command] for command in commands]
    ports = [free_port() for _ in commands]
    return run_in_ranks(__file__, '_run_scripts', folder, words, ports, timeout=timeout)


def _run_scripts(commands: list[list[str]], ports: list[int]) -> list[tuple[int, str]]:
    from in_process import run_script

    from mmvheat.cli import command as cli

    cli._SECONDS_FOR_RANK_0 = 0.0  # torchrun, which ends the other ranks, is not here.
    done = []
    for (script, *arguments), port in zip(commands, ports, strict=True):
        os.environ['MASTER_PORT'] = str(port)
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            status = run_script(script, *arguments, '--launcher', 'pytorch')
        done.append((status, errors.getvalue()))
    return done
