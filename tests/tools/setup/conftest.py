"""The set-up scripts as modules over an empty project, with a cache of their own."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / 'tools' / 'setup'
SCRIPTS = sorted(FOLDER.glob('*.py'))


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """`scripts('wheels')` gives a module of the set-up, copied into an empty project."""
    project = tmp_path / 'project'
    folder = project / 'tools' / 'setup'
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(ROOT / 'pyproject.toml', project)
    monkeypatch.setenv('MMVHEAT_CACHE', str(tmp_path / 'cache'))
    monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module
    for script in SCRIPTS:
        sys.modules.pop(script.stem, None)


@pytest.fixture
def places(scripts):
    """Where the empty project has its parts."""
    return scripts('places')


@pytest.fixture
def setup_env(scripts):
    """The script that `make setup` calls."""
    return scripts('setup_env')


@pytest.fixture
def call(setup_env, monkeypatch, capsys):
    """Run the script's main; give its exit status and what stood on stderr, one line or nothing."""

    def main():
        status = setup_env.main()
        error = capsys.readouterr().err
        assert not error or (error.startswith('error: ') and error.count('\n') == 1), error
        return status, error

    monkeypatch.setattr(setup_env.signal, 'signal', lambda *_: None)
    return main


@pytest.fixture
def stack(places):
    """Paths of a project whose `.venv` holds this Python, as a set-up would leave it."""
    places.VENV_PYTHON.parent.mkdir(parents=True)
    places.VENV_PYTHON.symlink_to(sys.executable)
    return places
