"""The doctor, in processes whose stack is broken: a package fails, has a wrong version, is gone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def doctor(tmp_path):
    """Run it with packages of `tmp_path` before the installed; give status, rows and output."""

    def run(*arguments: str, options: tuple[str, ...] = ()) -> tuple[int, dict[str, str], str]:
        done = subprocess.run(
            [sys.executable, *options, '-m', 'mmvheat.doctor', *arguments],
            env={**os.environ, 'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert not done.stderr, done.stderr
        rows = {}
        for line in done.stdout.splitlines():
            state, _, rest = line.partition(' ')
            if state in ('ok', 'warning', 'FAILED'):
                rows[rest.split()[0]] = line
                assert state != 'FAILED' or 'pip install' in line or 'make' in line, line
        return done.returncode, rows, done.stdout

    return run


def break_package(folder: Path, name: str, error: str) -> None:
    (folder / name).mkdir()
    (folder / name / '__init__.py').write_text(f'raise {error}\n')


@pytest.mark.slow
def test_a_whole_stack_can_run_everything(doctor):
    status, rows, out = doctor('--task', 'demo', 'detection')
    assert status == 0
    assert 'FAILED' not in out and 'demo can run' in out and 'detection can run' in out
    assert {'Python', 'torch', 'mmcv-lite', 'registry', 'device', 'disk', 'memory'} <= set(rows)
    assert 'functions' in rows['mmcv-lite'] and 'resolves' in rows['registry']


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'error'),
    [
        ('torch', 'OSError("libcudart.so.13: cannot open shared object file")'),
        ('mmengine', 'ModuleNotFoundError("No module named \'addict\'")'),
    ],
)
def test_without_its_base_nothing_runs(doctor, tmp_path, name, error):
    break_package(tmp_path, name, error)
    status, rows, out = doctor()
    assert status == 1
    assert rows[name].startswith('FAILED') and error.split('"')[1] in rows[name]
    assert rows['registry'].startswith('FAILED') and 'the backbone cannot run' in out


@pytest.mark.slow
def test_a_broken_library_stops_its_task_alone(doctor, tmp_path):
    """mmdet is of a version that is not supported, and opencv lacks a library of the system."""
    notes = tmp_path / 'mmdet-2.28.0.dist-info'
    notes.mkdir()
    (notes / 'METADATA').write_text('Metadata-Version: 2.1\nName: mmdet\nVersion: 2.28.0\n')
    status, rows, out = doctor('--task', 'detection')
    assert status == 1
    assert '2.28.0 is not ==3.3.0' in rows['mmdet'] and 'the backbone can run' in out
    assert 'detection cannot run: mmdet\n' in out
    assert doctor('--task', 'classification')[0] == 0


def test_opencv_without_a_display_library(doctor, tmp_path):
    break_package(tmp_path, 'cv2', 'ImportError("libGL.so.1: cannot open shared object file")')
    status, rows, _ = doctor('--task', 'segmentation')
    assert status == 1 and 'libGL.so.1' in rows['opencv']


def test_where_nothing_is_installed(doctor):
    """Without site-packages there is no rich either: the table is plain."""
    status, rows, out = doctor(options=('-S',))
    assert status == 1
    assert 'torch         is not installed  -> ' in rows['torch']
    assert 'mmengine' in rows and 'backbone cannot run: torch, mmengine, opencv, registry' in out


def test_an_unknown_task_is_a_mistake(capsys):
    from mmvheat.cli.doctor import main

    with pytest.raises(SystemExit) as exit:
        main(['--task', 'poetry'])
    assert exit.value.code == 2 and "invalid choice: 'poetry'" in capsys.readouterr().err
