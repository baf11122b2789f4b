"""The set-up from end to end, with an index of small packages in place of PyPI."""

import ast
import contextlib
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = sorted((ROOT / 'tools' / 'setup').glob('*.py'))
NOWHERE = {'PIP_INDEX_URL': 'http://127.0.0.1:9/simple'}


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.stem)
def test_starts_on_any_python_3(script):
    tree = ast.parse(script.read_text(), feature_version=(3, 6))
    names = {
        name.split('.')[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert names <= set(sys.stdlib_module_names) | {path.stem for path in SCRIPTS}


def assert_done(project):
    """The next call ends well, and one more has nothing to do."""
    status, out, err = project.set_up()
    assert (status, err) == (0, '') and 'Done in' in out
    assert project.kind_of_mmcv() == 'lite'
    assert 'up to date' in project.set_up()[1]


def test_goes_on_after_an_interruption(project):
    shutil.rmtree(project.venv, ignore_errors=True)
    process = project.start()
    while '[1/3]' not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err == 'error: interrupted: give the same command again, it goes on where it stopped\n'
    assert_done(project)


@pytest.mark.parametrize('steps', range(8))
def test_an_environment_that_was_cut_off_is_replaced(scripts, places, monkeypatch, steps):
    """After `steps` of removing an old environment and making a new one comes the interruption."""
    setup, left = scripts('setup_env'), iter(range(steps))

    def step(change, *arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        change(*arguments)

    def make(command):
        for name in ('include', 'lib', 'bin'):  # The order of venv.
            step(Path.mkdir, places.VENV / name)
        step((places.VENV / 'pyvenv.cfg').write_text, 'home = /usr/bin')

    remove = shutil.rmtree
    for name in ('lib', 'bin'):
        (places.VENV / name).mkdir(parents=True)
    (places.VENV / 'pyvenv.cfg').touch()
    with monkeypatch.context() as patch:
        patch.setattr(setup, 'run', make)
        patch.setattr(setup.shutil, 'rmtree', lambda path: step(remove, path))
        with contextlib.suppress(KeyboardInterrupt):
            setup.make_venv()
    left = iter(range(9))
    monkeypatch.setattr(setup, 'run', make)
    setup.make_venv()
    names = ['bin', 'include', 'lib', 'pyvenv.cfg']
    assert sorted(path.name for path in places.VENV.iterdir()) == names


def test_goes_on_when_the_network_is_back(project):
    for package in ('uv', 'mmdet'):  # one that pip installs, one that uv installs
        if not project.stamp.exists():
            assert_done(project)
        project.uv('uninstall', package)
        project.stamp.unlink()
        status, _, err = project.set_up(**NOWHERE)
        assert status == 2 and 'cannot be reached' in err and 'call make setup again' in err
        assert_done(project)


def cut(project):
    """As uv leaves a package when it is killed: see `forget_unfinished`."""
    (site,) = project.venv.glob('lib/python*/site-packages')
    (site / 'mmdet.py').unlink()
    (site / 'mmdet-0.1.dist-info' / 'INSTALLER').unlink()
    record = site / 'mmdet-0.1.dist-info' / 'RECORD'
    record.write_text(re.sub('.*INSTALLER.*\n', '', record.read_text()))


DAMAGES = {
    'killed while installing': cut,
    'foreign mmcv': lambda project: project.uv('install', '--no-deps', 'mmcv==2.2.0'),
    'two opencvs': lambda project: project.uv('install', 'opencv-python'),
    'other torch': lambda project: project.uv('install', 'torch==1.0'),
    'no Python': lambda project: (project.venv / 'bin' / 'python').unlink(),
    'no pyvenv.cfg': lambda project: (project.venv / 'pyvenv.cfg').write_text(''),
    'no uv': lambda project: (project.venv / 'bin' / 'uv').unlink(),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_mends_a_damaged_environment(project, damage):
    if not project.stamp.exists():
        assert_done(project)
    DAMAGES[damage](project)
    project.stamp.unlink(missing_ok=True)
    assert_done(project)


def test_a_folder_that_is_no_environment_is_left_alone(project):
    shutil.rmtree(project.venv, ignore_errors=True)
    project.venv.mkdir()
    (project.venv / 'thesis.txt').touch()
    status, _, err = project.set_up()
    assert status == 2 and 'not a virtual environment: move it away' in err
    assert [path.name for path in project.venv.iterdir()] == ['thesis.txt']
    shutil.rmtree(project.venv)


def test_a_file_that_was_not_locked_is_refused(project):
    if not project.stamp.exists():
        assert_done(project)
    lock = project.root / 'tools' / 'setup' / 'lock.txt'
    before = lock.read_text()
    name, _, _ = before.rpartition('sha256:')
    lock.write_text(f'{name}sha256:{"0" * 64}\n')
    project.uv('uninstall', 'torchvision')
    shutil.rmtree(project.env['UV_CACHE_DIR'])
    status, _, err = project.set_up()
    assert status == 2 and 'Hash mismatch' in err
    lock.write_text(before)
    assert_done(project)


def test_a_choice_holds_until_the_next(project):
    """The compiled mmcv comes from the cache of wheels and stays, until MMCV=lite."""
    python = 'cp{}{}'.format(*sys.version_info)
    key = f'mmcv-2.1.0_torch-0.1_{python}_{sysconfig.get_platform()}_cpu'
    folder = Path(project.env['MMVHEAT_CACHE'], 'wheels', key)
    folder.mkdir(parents=True, exist_ok=True)
    project.make_wheel('mmcv', '2.1.0', {'mmcv/__init__.py': "kind = 'own'", 'mmcv/ops.py': ''})
    shutil.move(project.wheels / 'mmcv-2.1.0-py3-none-any.whl', folder)
    for choice, kind in ((None, 'lite'), ('compiled', 'own'), (None, 'own'), ('lite', 'lite')):
        status, _, err = project.set_up(**project.offline, **({'MMCV': choice} if choice else {}))
        assert (status, err, project.kind_of_mmcv()) == (0, '', kind)


def test_cpu_torch_without_its_index_changes_nothing(project):
    assert project.set_up()[0] == 0
    status, _, err = project.set_up(**project.offline, TORCH='cpu')
    assert status == 2 and 'torch' in err
    assert 'up to date' in project.set_up()[1]
    status, _, err = project.set_up(**project.offline, TORCH='gpu')
    assert status == 2 and 'TORCH=gpu is unknown: expected TORCH=pypi or TORCH=cpu' in err


def test_what_means_a_new_set_up(project):
    assert project.set_up()[0] == 0
    pyproject = project.root / 'pyproject.toml'
    pyproject.write_text(pyproject.read_text() + '[tool.ruff]\nline-length = 99\n')
    assert 'up to date' in project.set_up()[1]
    pyproject.write_text("[project.optional-dependencies]\na = ['b']\n" + pyproject.read_text())
    assert_done(project)
    script = project.root / 'tools' / 'setup' / 'wheels.py'
    script.write_text(script.read_text() + '# other\n')
    assert_done(project)


def test_make_lists_its_targets():
    text = subprocess.run(['make', 'help'], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = set(re.findall(r'^  make (\S+)', text.stdout, re.MULTILINE))
    assert {'help', 'setup', 'lock', 'demo', 'demo-scratch', 'test', 'lint', 'clean'} <= listed


@pytest.mark.parametrize('python', [None, '/opt/python-nowhere', shutil.which('false')])
def test_make_without_python(tmp_path, python):
    command = [shutil.which('make'), 'setup', 'SHELL=' + shutil.which('bash'), 'VENV=no-python']
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
