"""The set-up script: one clear line for what is wrong, nothing to do the second time."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / 'tools' / 'setup' / 'setup_env.py'


@pytest.fixture
def setup_env(tmp_path, monkeypatch):
    """The script as a module over an empty project of its own, with its own cache."""
    project = tmp_path / 'project'
    target = project / 'tools' / 'setup'
    target.mkdir(parents=True)
    shutil.copy(SCRIPT, target)
    shutil.copy(SCRIPT.with_name('constraints.txt'), target)
    shutil.copy(ROOT / 'pyproject.toml', project)
    monkeypatch.setenv('MMVHEAT_CACHE', str(tmp_path / 'cache'))
    spec = importlib.util.spec_from_file_location('setup_env', target / SCRIPT.name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def call(setup_env, monkeypatch, capsys):
    """Run the script's main; give its exit status and what stood on stderr."""

    def main():
        status = setup_env.main()
        return status, capsys.readouterr().err

    monkeypatch.setattr(setup_env.signal, 'signal', lambda *_: None)
    return main


@pytest.fixture
def stack(setup_env):
    """A `.venv` whose Python is this one, as a set-up would leave it."""
    setup_env.VENV_PYTHON.parent.mkdir(parents=True)
    setup_env.VENV_PYTHON.symlink_to(sys.executable)
    return setup_env


def one_line(error):
    assert error.startswith('error: ') and error.count('\n') == 1 and error.endswith('\n'), error
    return error


def test_parses_on_any_python_3():
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


def test_imports_the_standard_library_only():
    tree = ast.parse(SCRIPT.read_text())
    names = {
        name.split('.')[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert names <= set(sys.stdlib_module_names)


@pytest.mark.parametrize('version', [(3, 6, 9), (3, 10, 0), (3, 12, 1)])
def test_wrong_python(setup_env, call, monkeypatch, version):
    monkeypatch.setattr(setup_env.check_python, '__defaults__', (version, '/opt/python', 'linux'))
    status, error = call()
    assert status == 2
    assert f'/opt/python is Python 3.{version[1]}' in one_line(error) and '3.11' in error
    assert not setup_env.VENV.exists()


def test_wrong_system(setup_env):
    with pytest.raises(setup_env.SetupError, match='darwin.*Linux'):
        setup_env.check_python((3, 11, 7), '/opt/python', 'darwin')


def test_no_compiler(setup_env, call, monkeypatch):
    monkeypatch.setenv('PATH', '')
    monkeypatch.delenv('CXX', raising=False)
    monkeypatch.setattr(setup_env, 'check_disk', lambda: None)
    status, error = call()
    assert status == 2
    assert 'no C++ compiler (c++)' in one_line(error) and 'apt install g++' in error
    assert not setup_env.VENV.exists()


def test_compiler_without_cpp17(setup_env, tmp_path, monkeypatch):
    compiler = tmp_path / 'old-c++'
    compiler.write_text('#!/bin/sh\necho "unrecognized -std=c++17"\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv('CXX', str(compiler))
    with pytest.raises(setup_env.SetupError, match=r'old-c\+\+ cannot compile.*unrecognized'):
        setup_env.check_compiler()


def test_no_python_headers(setup_env, tmp_path, monkeypatch):
    monkeypatch.setenv('CXX', 'true')
    paths = {'include': str(tmp_path)}
    monkeypatch.setattr(setup_env.sysconfig, 'get_paths', lambda: paths)
    with pytest.raises(setup_env.SetupError, match='no Python.h'):
        setup_env.check_compiler()


def test_full_disk(setup_env, call, monkeypatch):
    usage = namedtuple('usage', 'free')(1.5e9)
    monkeypatch.setattr(setup_env.shutil, 'disk_usage', lambda _: usage)
    status, error = call()
    assert status == 2
    assert '1.5 GB free' in one_line(error) and 'TMPDIR' in error
    assert not setup_env.VENV.exists()


def test_disk_need_shrinks_by_what_is_there(setup_env, monkeypatch):
    usage = namedtuple('usage', 'free')(6e9)
    monkeypatch.setattr(setup_env.shutil, 'disk_usage', lambda _: usage)
    monkeypatch.setattr(setup_env, 'disk_of', lambda _: 1)
    with pytest.raises(setup_env.SetupError, match='needs 11.1 GB'):
        setup_env.check_disk()
    monkeypatch.setattr(setup_env, 'tree_bytes', lambda _: setup_env.VENV_BYTES / 2)
    setup_env.check_disk()


def test_wheel_is_kept_by_all_that_it_depends_on(setup_env, monkeypatch):
    def key(mmcv='2.1.0', torch='2.11.0', python=(3, 11), ops='cpu', platform='linux-x86_64'):
        monkeypatch.setattr(setup_env, 'PYTHON', python)
        monkeypatch.setattr(setup_env.sysconfig, 'get_platform', lambda: platform)
        return setup_env.wheel_folder({'mmcv': mmcv, 'torch': torch}, ops).name

    assert key() == 'mmcv-2.1.0_torch-2.11.0_cp311_linux-x86_64_cpu'
    others = [
        key(mmcv='2.0.1'),
        key(torch='2.10.0'),
        key(python=(3, 12)),
        key(ops='cu130'),
        key(platform='linux-aarch64'),
    ]
    assert len({key(), *others}) == 6


def test_cache_lies_with_the_user(setup_env, tmp_path, monkeypatch):
    assert setup_env.cache_dir() == tmp_path / 'cache' / 'wheels'
    monkeypatch.delenv('MMVHEAT_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
    assert setup_env.cache_dir() == tmp_path / 'xdg' / 'mmvheat' / 'wheels'


def test_damaged_wheel_is_dropped(setup_env, tmp_path):
    whole, cut = tmp_path / 'mmcv-b.whl', tmp_path / 'mmcv-a.whl'
    with zipfile.ZipFile(whole, 'w') as archive:
        archive.writestr('mmcv/version.py', 'x' * 9999)
    cut.write_bytes(whole.read_bytes()[:-40])
    assert setup_env.cached_wheel(tmp_path) == whole
    assert not cut.exists()
    whole.unlink()
    assert setup_env.cached_wheel(tmp_path) is None


def test_second_call_does_nothing(stack, call, monkeypatch):
    stack.STAMP.write_text(stack.fingerprint())
    monkeypatch.setattr(stack, 'set_up', lambda: pytest.fail('set up again'))
    assert call() == (0, '')


def test_second_call_is_quick(stack):
    stack.STAMP.write_text(stack.fingerprint())
    begin = time.monotonic()
    command = [sys.executable, stack.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.monotonic() - begin < 2
    assert 'up to date' in done.stdout


@pytest.mark.parametrize('change', ['constraints', 'dependency', 'extras', 'moved', 'python gone'])
def test_a_change_means_a_new_set_up(stack, monkeypatch, change):
    stack.STAMP.write_text(stack.fingerprint())
    assert stack.is_current()
    if change == 'constraints':
        stack.CONSTRAINTS.write_text(stack.CONSTRAINTS.read_text() + 'other==1.0\n')
    elif change == 'dependency':
        text = stack.PYPROJECT.read_text()
        stack.PYPROJECT.write_text(text.replace("'scipy'", "'scipy', 'other'"))
    elif change == 'extras':
        monkeypatch.setattr(stack, 'EXTRAS', 'detection')
    elif change == 'moved':
        monkeypatch.setattr(stack, 'ROOT', stack.ROOT / 'elsewhere')
    else:
        stack.VENV_PYTHON.unlink()
    assert not stack.is_current()


def test_a_linter_setting_means_no_new_set_up(stack):
    before = stack.fingerprint()
    text = stack.PYPROJECT.read_text()
    stack.PYPROJECT.write_text(text.replace('line-length = 100', 'line-length = 99'))
    assert stack.fingerprint() == before


@pytest.mark.parametrize(
    ('output', 'expected'),
    [
        ('OSError: [Errno 28] No space left on device', 'the disk is full'),
        (
            'Temporary failure in name resolution\nERROR: No matching distribution found for a',
            'index',
        ),
        ('ERROR: No matching distribution found for torch==9', 'distribution found for torch==9'),
        ('c++: fatal error: Killed signal terminated program cc1plus', 'MAX_JOBS=1'),
        ('x.cpp:3:10: fatal error: y.h: No such file or directory', 'y.h: No such file'),
        ("ModuleNotFoundError: No module named 'pkg_resources'", 'pkg_resources'),
        ('some words\n  error: invalid command bdist_wheel', 'invalid command bdist_wheel'),
        ('nothing known', 'sh stopped with status 3'),
    ],
)
def test_failing_command_gives_one_line(stack, call, monkeypatch, output, expected):
    command = ['sh', '-c', 'printf "%s\n" "$0"; exit 3', output]
    monkeypatch.setattr(stack, 'set_up', lambda: stack.run(command))
    status, error = call()
    assert status == 2
    assert expected in one_line(error) and f'(log: {stack.LOG})' in error
    assert output in stack.LOG.read_text()


def test_interrupt_ends_the_children(stack, call, monkeypatch, tmp_path):
    pid_file = tmp_path / 'pid'
    script = f'touch $TMPDIR/object.o; sleep 60 & echo $! > {pid_file}; wait'
    command = ['sh', '-c', script]
    monkeypatch.setattr(stack.tempfile, 'tempdir', str(tmp_path / 'scratch'))
    (tmp_path / 'scratch').mkdir()

    def describe(output, elapsed):
        if pid_file.exists():
            raise KeyboardInterrupt
        return ''

    monkeypatch.setattr(stack, 'set_up', lambda: stack.run(command, describe))
    status, error = call()
    assert status == 2 and 'interrupted' in one_line(error)
    assert not list((tmp_path / 'scratch').iterdir())
    state = Path('/proc') / pid_file.read_text().strip() / 'stat'
    deadline = time.monotonic() + 5
    while state.exists() and state.read_text().split()[2] != 'Z' and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not state.exists() or state.read_text().split()[2] == 'Z'


def test_progress_of_the_compilation(setup_env):
    assert setup_env.compile_progress('Collecting mmcv\n', 2.0) == 'preparing the build'
    output = '  [1/77] c++ -c a.cpp\n  [2/77] c++ -c b[9/9].cpp\nwarning: array[3/4]\n'
    text = setup_env.compile_progress(output, 20.0)
    assert text == '2 of 77 files compiled, about 12:30 left'
    assert setup_env.compile_progress(output + '[77/77] c++\n', 99.0).startswith('all 77 files')


def test_environment_of_children_leads_into_venv(setup_env, monkeypatch):
    for name in ('PYTHONPATH', 'PIP_USER', 'PIP_TARGET'):
        monkeypatch.setenv(name, '1')
    env = setup_env.child_env(MAX_JOBS='2')
    assert env['MAX_JOBS'] == '2' and env['PATH'] == os.environ['PATH']
    assert not {'PYTHONPATH', 'PIP_USER', 'PIP_TARGET'} & set(env)


def test_interrupted_installs_are_forgotten(setup_env):
    site = setup_env.VENV / 'lib' / 'python3.11' / 'site-packages'
    for name, files in (('whole-1.dist-info', ['METADATA', 'INSTALLER']), ('cut-1.dist-info', [])):
        (site / name).mkdir(parents=True)
        for file in files:
            (site / name / file).touch()
    setup_env.forget_unfinished()
    assert [path.name for path in site.iterdir()] == ['whole-1.dist-info']


def test_a_folder_that_is_no_environment_is_left_alone(setup_env):
    setup_env.VENV.mkdir()
    (setup_env.VENV / 'thesis.txt').touch()
    with pytest.raises(setup_env.SetupError, match='not a virtual environment'):
        setup_env.make_venv()
    assert (setup_env.VENV / 'thesis.txt').exists()


def test_constraints_cover_every_dependency(setup_env):
    """`make setup` installs the constraints without asking pip for more, so nothing may lack."""
    pins = setup_env.read_constraints(setup_env.CONSTRAINTS.read_text())
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    groups = [project['dependencies'], *project['optional-dependencies'].values()]
    packaging = pytest.importorskip('packaging.requirements')
    wanted = [packaging.Requirement(text) for group in groups for text in group]
    missing = [
        str(need)
        for need in wanted
        if need.name != 'mmvheat'
        and not (need.name in pins and need.specifier.contains(pins[need.name]))
    ]
    assert not missing
    assert all(re.fullmatch(r'[\w.]+', version) for version in pins.values())


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
