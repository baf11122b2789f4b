import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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


def metrics(work_dir: Path) -> dict[str, float]:
    """Read the metrics of the last test in a work dir."""
    newest = max(work_dir.glob('2*/2*.json'), key=lambda path: path.stat().st_mtime_ns)
    found = json.loads(newest.read_text())
    return {name: value for name, value in found.items() if not name.endswith('time')}
