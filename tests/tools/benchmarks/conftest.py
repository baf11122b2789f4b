import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from mmvheat.command_line import run_command

ROOT = Path(__file__).parents[3]
BENCHMARKS = ROOT / 'tools' / 'benchmarks'
# Few and short samples; one thread, for several wait for each other where cores are shared.
QUICK = ('--device', 'cpu', '--threads', '1', '--repetitions', '3', '--sample-ms', '1')


@pytest.fixture(scope='session')
def load() -> Callable[[str], ModuleType]:
    """Import a module of the benchmarks, which import each other as scripts do."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def outcome(load, capsys, tmp_path) -> Callable[..., tuple[int, str, str, dict | None]]:
    """Run a benchmark in this process: status, stdout, stderr and what it wrote as JSON."""

    def outcome(script: str, *arguments: str) -> tuple[int, str, str, dict | None]:
        file = tmp_path / f'{script}.json'
        module = load(script)
        argv = [*QUICK, '--json', str(file), *arguments]
        try:
            status = run_command(lambda: module.main(argv))
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        record = json.loads(file.read_text()) if file.exists() else None
        return status, captured.out, captured.err, record

    return outcome


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess]:
    """Run a script of the benchmarks as a user does."""

    def process(script: str, *arguments: object, **environment: str):
        interpreter = 'bash' if script.endswith('.sh') else sys.executable
        env = os.environ | {
            'PYTHON': sys.executable,
            'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}',
            'CUDA_VISIBLE_DEVICES': '-1',
            'OMP_NUM_THREADS': '1',
        }
        return subprocess.run(
            [interpreter, str(BENCHMARKS / script), *map(str, arguments)],
            env=env | environment,
            capture_output=True,
            text=True,
            timeout=250,
        )

    return process
