"""`make test-matrix` over small stacks and small tests, without a network."""

import importlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = (ROOT / 'tools' / 'setup', ROOT / 'tools' / 'matrix')
PYTHON = '{}.{}'.format(*sys.version_info)
FACTS = {'python': PYTHON, 'mmcv': 'ours', 'packages': {'torch': '2', 'numpy': '2', 'mmcv': '2.1'}}
TESTS = {
    'test_good.py': 'def test_passes(): pass\n',
    'test_mixed.py': """
import pytest
def test_passes(): pass
@pytest.fixture
def broken(): raise OSError('a fixture')
def test_has_no_fixture(broken): pass
def test_fails(): assert 1 == 2, 'no luck'
@pytest.mark.skip
def test_is_skipped(): pass
""",
    'test_not_imported.py': 'import no_such_module\n',
}
BACKEND = """
import zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f'{folder}/small-1.0-py3-none-any.whl', 'w') as wheel:
        for name, text in FILES.items():
            wheel.writestr(name, text)
    return 'small-1.0-py3-none-any.whl'
"""


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """The modules of the tool, over an empty project; `tool('run')` gives one."""
    for folder in FOLDERS:
        monkeypatch.syspath_prepend(str(folder))
    scripts = [path.stem for folder in FOLDERS for path in folder.glob('*.py')]
    before = {name: sys.modules.pop(name, None) for name in scripts}
    processes, stacks = (importlib.import_module(name) for name in ('processes', 'stacks'))
    for name in ('ROOT', 'VENV'):
        monkeypatch.setattr(processes, name, tmp_path)
    monkeypatch.setattr(processes, 'LOG', tmp_path / 'log')
    environments = importlib.import_module('environments')
    monkeypatch.setattr(environments, 'facts', lambda python: FACTS)
    monkeypatch.setattr(
        stacks, 'STACKS', (stacks.Stack('good', PYTHON, ''), stacks.Stack('none', '3.99', ''))
    )
    yield importlib.import_module
    for name, module in before.items():
        sys.modules.pop(name, None)
        if module:
            sys.modules[name] = module


@pytest.fixture
def run(tool, tmp_path, monkeypatch):
    """The command line, whose environments are this one; Python 3.99 cannot be had."""
    module = tool('run')

    def make(stack):
        if stack.python != PYTHON:
            raise tool('processes').SetupError('no such Python')
        return Path(sys.executable)

    monkeypatch.setattr(module, 'make', make)
    (tmp_path / 'docs').mkdir()
    folder = tmp_path / 'tests' / 'small'
    folder.mkdir(parents=True)
    for name, text in TESTS.items():
        (folder / name).write_text(text)
    (tmp_path / 'pyproject.toml').write_text('[tool.pytest.ini_options]\n')
    return module


def test_results_by_file(run, capsys):
    assert run.main(['good', '--tests', 'tests', '-p', 'no:cacheprovider']) == 1
    assert '2 passed, 3 failed, 1 skipped in 0:' in capsys.readouterr().out
    files = json.loads(run.RESULTS.read_text())['good']['files']
    found = {
        Path(name).name: (result['passed'], result['failed'], result['skipped'])
        for name, result in files.items()
    }
    assert found == {
        'test_good.py': (1, 0, 0),
        'test_mixed.py': (1, 2, 1),
        'test_not_imported.py': (0, 1, 0),
    }
    page = run.PAGE.read_text()
    assert page == run.render(json.loads(run.RESULTS.read_text()))
    assert '| `tests/small` | 2 in 3 files, 3 failed |' in page
    assert 'tests/small/test_mixed.py::test_fails`: AssertionError: no luck' in page


def test_a_stack_that_cannot_be_made_fails_no_other(run, capsys):
    assert run.main(['--tests', 'tests/small/test_good.py']) == 0
    good, none = capsys.readouterr().out.splitlines()
    assert '1 passed, 0 failed, 0 skipped' in good
    assert none.startswith('none ') and none.endswith('not made: no such Python')
    assert '| none | 3.99 |  |  |  | no such Python |' in run.PAGE.read_text()
    assert run.main(['none']) == 1


def test_a_file_that_runs_again_replaces_its_result_alone(run, tmp_path, monkeypatch):
    run.main(['good', '--tests', 'tests'])
    (tmp_path / 'tests' / 'small' / 'test_mixed.py').write_text('def test_passes(): pass\n')
    assert run.main(['good', '--tests', 'tests/small/test_mixed.py']) == 0
    assert '| `tests/small` | 2 in 3 files, 1 failed |' in run.PAGE.read_text()
    # With another torch the other results no longer count.
    packages = {**FACTS['packages'], 'torch': '3'}
    monkeypatch.setattr(run, 'facts', lambda python: {**FACTS, 'packages': packages})
    run.main(['good', '--tests', 'tests/small/test_mixed.py'])
    assert '| `tests/small` | 1 in 1 file |' in run.PAGE.read_text()


def test_a_part_of_a_file_is_shown_as_one(run):
    run.main(['good', '--tests', 'tests/small/test_mixed.py', '-k', 'passes'])
    assert (
        '`tests/small/test_mixed.py`: `tests/small/test_mixed.py -k passes`' in run.PAGE.read_text()
    )
    run.main(['good', '--tests', 'tests/small/test_mixed.py'])
    assert '-k passes' not in run.PAGE.read_text()


def test_pytest_that_ends_early_is_a_failure(run, capsys):
    assert run.main(['good', '--tests', 'tests/gone']) == 1
    assert 'failed: pytest ended with status ' in capsys.readouterr().out
    assert not run.RESULTS.exists()


def test_an_unknown_stack_is_refused(run, capsys):
    with pytest.raises(SystemExit, match='2'):
        run.main(['nwest'])
    assert 'no stack nwest: expected good, none' in capsys.readouterr().err


def write_wheel(folder: Path, name: str) -> dict:
    """Write a wheel with one empty module; return its files."""
    info = f'{name}-1.0.dist-info'
    files = {
        f'{name}.py': '',
        f'{info}/METADATA': f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n',
        f'{info}/WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
        f'{info}/RECORD': '',
    }
    with zipfile.ZipFile(folder / f'{name}-1.0-py3-none-any.whl', 'w') as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return files


@pytest.fixture
def environments(tool, tmp_path, monkeypatch):
    """What makes environments, over a project that needs `lacking` and `present`."""
    uv = pytest.importorskip('uv')
    module = tool('environments')
    wheels = tmp_path / 'wheels'
    wheels.mkdir()
    for name in ('present', 'extra', 'opencv_python_headless'):
        write_wheel(wheels, name)
    files = write_wheel(tmp_path, 'small')
    needs = 'Requires-Dist: lacking\nRequires-Dist: present\nProvides-Extra: dev\n'
    files['small-1.0.dist-info/METADATA'] += needs
    (tmp_path / 'backend.py').write_text(f'FILES = {files}\n{BACKEND}')
    (tmp_path / 'pyproject.toml').write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
        "[project]\nname = 'small'\nversion = '1.0'\n"
        "dependencies = ['lacking', 'present']\noptional-dependencies = { dev = [] }\n"
    )
    monkeypatch.setattr(module, 'UV', uv.find_uv_bin())
    monkeypatch.setenv('UV_CACHE_DIR', str(tmp_path / 'uv-cache'))
    offline = {'UV_OFFLINE': '1', 'UV_FIND_LINKS': str(wheels)}
    monkeypatch.setattr(module, 'uv_env', lambda: offline)
    return module


def test_an_environment_of_its_own(environments, tool, monkeypatch):
    stack = tool('stacks').Stack('mine', PYTHON, '', needs=('extra',), instead=('lacking',))
    python = environments.make(stack)
    assert python.is_relative_to(environments.FOLDER)
    code = 'import extra, present, small, opencv_python_headless, sys; print(sys.version_info[:2])'
    output = subprocess.run([python, '-c', code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == str(sys.version_info[:2])
    monkeypatch.setattr(environments, 'run', lambda *_, **__: pytest.fail('made it again'))
    assert environments.make(stack) == python


def test_what_the_machine_lacks_is_said_in_one_line(environments, tool):
    error, stack = tool('processes').SetupError, tool('stacks').Stack
    with pytest.raises(error, match=r'^no Python 3\.99 on this machine$'):
        environments.make(stack('future', '3.99', ''))
    with pytest.raises(error, match='lacking') as caught:
        environments.make(stack('whole', PYTHON, '', needs=('extra',)))
    assert '\n' not in str(caught.value)


def test_the_page_is_made_from_the_results(tool, monkeypatch):
    sys.modules.pop('stacks')
    results = json.loads((ROOT / 'docs' / 'compatibility.json').read_text())
    assert tool('page').render(results) == (ROOT / 'docs' / 'compatibility.md').read_text()
