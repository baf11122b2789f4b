"""The set-up script: nothing to do the second time, everything after a change."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = sorted((ROOT / 'tools' / 'setup').glob('*.py'))


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.stem)
def test_parses_on_any_python_3(script):
    ast.parse(script.read_text(), feature_version=(3, 6))


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.stem)
def test_imports_the_standard_library_only(script):
    names = {
        name.split('.')[0]
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert names <= set(sys.stdlib_module_names) | {path.stem for path in SCRIPTS}


def test_second_call_starts_nothing(stack, setup_env):
    """Without a PATH it could find neither pip's compiler nor a network tool."""
    stack.STAMP.write_text(setup_env.fingerprint())
    before = sorted(path for path in stack.ROOT.rglob('*') if '__pycache__' not in path.parts)
    command = [sys.executable, setup_env.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={})
    assert 'up to date' in done.stdout
    after = sorted(path for path in stack.ROOT.rglob('*') if '__pycache__' not in path.parts)
    assert after == before


@pytest.mark.parametrize(
    'change', ['constraints', 'dependency', 'script', 'extras', 'moved', 'python gone']
)
def test_a_change_means_a_new_set_up(stack, setup_env, monkeypatch, change):
    stack.STAMP.write_text(setup_env.fingerprint())
    assert setup_env.is_current()
    if change == 'constraints':
        stack.CONSTRAINTS.write_text(stack.CONSTRAINTS.read_text() + 'other==1.0\n')
    elif change == 'dependency':
        text = stack.PYPROJECT.read_text()
        stack.PYPROJECT.write_text(text.replace("'scipy'", "'scipy', 'other'"))
    elif change == 'script':
        Path(setup_env.__file__).with_name('wheels.py').write_text('# other\n')
    elif change == 'extras':
        monkeypatch.setattr(setup_env, 'EXTRAS', 'detection')
    elif change == 'moved':
        monkeypatch.setattr(stack, 'ROOT', stack.ROOT / 'elsewhere')
    else:
        stack.VENV_PYTHON.unlink()
    assert not setup_env.is_current()


def test_a_linter_setting_means_no_new_set_up(stack, setup_env):
    before = setup_env.fingerprint()
    text = stack.PYPROJECT.read_text()
    stack.PYPROJECT.write_text(text.replace('line-length = 100', 'line-length = 99'))
    assert setup_env.fingerprint() == before


def test_a_folder_that_is_no_environment_is_left_alone(setup_env, places):
    places.VENV.mkdir()
    (places.VENV / 'thesis.txt').touch()
    with pytest.raises(setup_env.SetupError, match='not a virtual environment'):
        setup_env.make_venv()
    assert (places.VENV / 'thesis.txt').exists()


def test_make_lists_its_targets():
    text = subprocess.run(['make', 'help'], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = set(re.findall(r'^  make (\S+)', text.stdout, re.MULTILINE))
    assert {'help', 'setup', 'demo', 'demo-scratch', 'test', 'lint', 'clean'} <= listed


@pytest.mark.parametrize('python', [None, '/opt/python-nowhere', shutil.which('false')])
def test_make_without_python(tmp_path, python):
    command = [shutil.which('make'), 'setup', 'SHELL=' + shutil.which('bash')]
    done = subprocess.run(
        command + ([f'PYTHON={python}'] if python else []),
        cwd=ROOT,
        env={'PATH': str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if not line.startswith('make:')]
    assert len(errors) == 1 and errors[0].startswith('error: no Python 3 found')
    assert (python or 'python3.11') in errors[0]
