import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from mmvheat.cli.command import run_command

ROOT = Path(__file__).parents[3]
BENCHMARKS = ROOT / 'tools' / 'benchmarks'
# Few and short samples; one thread, for several wait for each other where cores are shared.
QUICK = ('--device', 'cpu', '--threads', '1', '--repetitions', '2', '--sample-ms', '0')


@pytest.fixture(scope='session')
def load() -> Callable[[str], ModuleType]:
    """Import a module of the benchmarks, which import each other as scripts do."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def outcome(load, capsys, tmp_path, monkeypatch) -> Callable[..., tuple]:
    """Run a benchmark in this process: status, stdout, stderr and what it wrote as JSON."""

    def outcome(script: str, *arguments: str) -> tuple[int, str, str, dict | None]:
        file = tmp_path / 'record.json'
        # Exported files run on the CPU alone.
        quick = QUICK[2:] if script == 'exported' else QUICK
        argv = [*quick, '--json', str(file), *arguments]
        monkeypatch.setattr(sys, 'argv', [script, *argv])
        with pytest.raises(SystemExit) as stop:
            sys.exit(run_command(lambda: load(script).main(argv)))
        record = json.loads(file.read_text()) if file.exists() else None
        return stop.value.code, *capsys.readouterr(), record

    return outcome


@pytest.fixture
def start() -> Callable[..., subprocess.CompletedProcess]:
    """Run a command as a user does."""

    def start(*command: object, **environment: str) -> subprocess.CompletedProcess:
        paths = f'{BENCHMARKS}:{ROOT}:{os.environ.get("PYTHONPATH", "")}'
        env = {'PYTHONPATH': paths, 'PYTHON': sys.executable}
        env |= {'CUDA_VISIBLE_DEVICES': '-1', 'OMP_NUM_THREADS': '1'} | environment
        command = list(map(str, command))
        options = {'capture_output': True, 'text': True, 'timeout': 250}
        return subprocess.run(command, env=os.environ | env, **options)

    return start
