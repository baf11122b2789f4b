import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='session')
def bare_mmcv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed mmcv, but without its compiled module if it has one."""
    folder = tmp_path_factory.mktemp('bare')
    (folder / 'mmcv').mkdir()
    for path in Path(find_spec('mmcv').origin).parent.iterdir():
        if not path.name.startswith('_ext'):
            (folder / 'mmcv' / path.name).symlink_to(path)
    return folder


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., str]:
    """Run Python with arguments and folders before its path, and return what it printed."""

    def python(*arguments: object, path: tuple[Path, ...] = ()) -> str:
        done = subprocess.run(
            [sys.executable, '-W', 'ignore', *map(str, arguments)],
            env=dict(
                os.environ,
                PYTHONPATH=os.pathsep.join(map(str, (*path, ROOT))),
                OMP_NUM_THREADS='1',
                CUDA_VISIBLE_DEVICES='-1',
            ),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
        return done.stdout

    return python
