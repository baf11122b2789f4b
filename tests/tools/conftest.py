import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from in_process import run_script

ROOT = Path(__file__).parents[2]
CONFIGS = Path(__file__).parent / 'configs'


@pytest.fixture(scope='session')
def start(tiny_data: Path) -> Callable[..., subprocess.Popen]:
    """Start a tool, `start('train.py', ...)`, on the CPU with one thread."""

    def start(tool: str, *arguments: object, **environment: str) -> subprocess.Popen:
        interpreter = 'bash' if tool.endswith('.sh') else sys.executable
        env = dict(
            os.environ,
            TINY_DATA=str(tiny_data),
            PYTHON=sys.executable,
            PYTHONPATH=str(ROOT),
            OMP_NUM_THREADS='1',
            CUDA_VISIBLE_DEVICES='-1',
            **environment,
        )
        for name in ('DISPLAY', 'WAYLAND_DISPLAY', 'RANK', 'LOCAL_RANK', 'WORLD_SIZE'):
            env.pop(name, None)
        return subprocess.Popen(
            [interpreter, str(ROOT / 'tools' / tool), *map(str, arguments)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope='session')
def run(start: Callable[..., subprocess.Popen]) -> Callable[..., str]:
    """Run a tool to its end, which must be a success, and return what it printed."""

    def run(tool: str, *arguments: object, **environment: str) -> str:
        process = start(tool, *arguments, **environment)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err[-3000:] + out[-1000:]
        return out + err

    return run


@pytest.fixture
def tool(tiny_data: Path, tmp_path: Path, monkeypatch, capfd) -> Callable[..., tuple[int, str]]:
    """Run a tool, `tool('train', ...)`, in this process, on the CPU and in a folder of its own.

    Returns its exit status and its errors: the lines on stderr that are neither logs nor warnings.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('TINY_DATA', str(tiny_data))
    monkeypatch.setattr('mmengine.device.utils.DEVICE', 'cpu')

    def tool(name: str, *arguments: object) -> tuple[int, str]:
        capfd.readouterr()
        status = run_script(f'tools/{name}.py', *arguments)
        lines = capfd.readouterr().err.splitlines()
        return status, '\n'.join(line for line in lines if line.startswith(('error', 'Traceback')))

    return tool
