"""The set-up over a small project of its own, with an index of small packages and caches."""

import base64
import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / 'tools' / 'setup'
SCRIPTS = sorted(FOLDER.glob('*.py'))

# Stands in for setuptools: the project's wheel was made beforehand.
BACKEND = """
import shutil
def build_editable(folder, config_settings=None, metadata_directory=None):
    shutil.copy('mmvheat-0.1.0-py3-none-any.whl', folder)
    return 'mmvheat-0.1.0-py3-none-any.whl'
"""


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """`scripts('wheels')` gives a module of the set-up, copied into an empty project."""
    folder = tmp_path / 'project' / 'tools' / 'setup'
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(ROOT / 'pyproject.toml', tmp_path / 'project')
    monkeypatch.setenv('MMVHEAT_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('UV_CACHE_DIR', str(tmp_path / 'uv-cache'))
    for name in ('MMCV', 'TORCH'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module
    for script in SCRIPTS:
        sys.modules.pop(script.stem, None)


@pytest.fixture
def places(scripts):
    """Where the empty project has its parts."""
    return scripts('processes')


def make_wheel(folder: Path, name: str, version: str, files: dict) -> str:
    """Write a pure wheel; return its entry for a lock file."""
    stem = f'{name.replace("-", "_")}-{version}'
    info = f'{stem}.dist-info'
    files = {
        **files,
        f'{info}/METADATA': f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n',
        f'{info}/WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
    }
    record = ''
    for path, content in files.items():
        digest = hashlib.sha256(content if isinstance(content, bytes) else content.encode())
        code = base64.urlsafe_b64encode(digest.digest()).rstrip(b'=').decode()
        record += f'{path},sha256={code},{len(content)}\n'
    wheel = folder / f'{stem}-py3-none-any.whl'
    with zipfile.ZipFile(wheel, 'w') as archive:
        for path, content in {**files, f'{info}/RECORD': record + f'{info}/RECORD,,\n'}.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = 0o100755 << 16
            archive.writestr(entry, content)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return f'{name}=={version} \\\n    --hash=sha256:{digest}\n'


class Project:
    """A clone whose stack is a few packages of one line each, and the call of its set-up."""

    def __init__(self, root: Path):
        uv = pytest.importorskip('uv')
        self.root, self.venv = root / 'project', root / 'project' / '.venv'
        self.stamp = self.venv / '.mmvheat-setup'
        self.wheels = root / 'wheels'
        self.wheels.mkdir()
        folder = self.root / 'tools' / 'setup'
        shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns('__pycache__'))
        (self.root / 'backend.py').write_text(BACKEND)
        make_wheel(self.root, 'mmvheat', '0.1.0', {'mmvheat.py': ''})
        (self.root / 'pyproject.toml').write_text(
            "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
            "[project]\nname = 'mmvheat'\nversion = '0.1.0'\n"
        )
        binary = Path(uv.find_uv_bin()).read_bytes()
        lock = self.make_wheel('uv', '1.0', {'uv-1.0.data/scripts/uv': binary})
        packages = {
            'mmcv-lite': {'mmcv/__init__.py': "kind = 'lite'", 'mmcv/ops.py': ''},
            'mmdet': {'mmdet.py': ''},
            'mmpretrain': {'mmpretrain.py': ''},
            'mmsegmentation': {'mmseg.py': ''},
            'opencv-python-headless': {'cv2.py': ''},
            'torch': {'torch.py': ''},
            'torchvision': {'torchvision.py': ''},
        }
        for name, files in packages.items():
            lock += self.make_wheel(name, '2.1.0' if name == 'mmcv-lite' else '0.1', files)
        (folder / 'lock.txt').write_text(lock)
        foreign = {'mmcv/__init__.py': "kind = 'foreign'", 'mmcv/ops.py': 'raise OSError'}
        self.make_wheel('mmcv', '2.2.0', foreign)
        self.make_wheel('opencv-python', '1.0', {'cv2.py': 'raise ImportError'})
        self.make_wheel('torch', '1.0', {'torch.py': 'raise ImportError'})
        self.env = {
            'PATH': os.environ['PATH'],
            'HOME': str(root),
            'PIP_CONFIG_FILE': os.devnull,
            'PIP_RETRIES': '1',
            'UV_HTTP_RETRIES': '0',
            'UV_CACHE_DIR': str(root / 'uv-cache'),
            'MMVHEAT_CACHE': str(root / 'cache'),
        }
        self.offline = {'PIP_NO_INDEX': '1', 'PIP_FIND_LINKS': str(self.wheels)}

    def make_wheel(self, name: str, version: str, files: dict) -> str:
        """Add a package to the index; return its entry for a lock file."""
        return make_wheel(self.wheels, name, version, files)

    def uv(self, command: str, *arguments: str) -> None:
        """Change the environment behind the back of the set-up."""
        binary, python = self.venv / 'bin' / 'uv', self.venv / 'bin' / 'python'
        call = [str(binary), 'pip', command, '--python', str(python), *arguments]
        if command == 'install':
            call += ['--no-index', '--find-links', str(self.wheels)]
        subprocess.run(call, env=self.env, check=True, capture_output=True)

    def start(self, **env: str) -> subprocess.Popen:
        """Start the set-up, with the folder of wheels in place of an index."""
        script = self.root / 'tools' / 'setup' / 'setup_env.py'
        return subprocess.Popen(
            [sys.executable, str(script)],
            env={**self.env, **(env or self.offline)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def set_up(self, **env: str) -> tuple[int, str, str]:
        """Set up; give the exit status, the output, and stderr: one line or nothing."""
        process = self.start(**env)
        out, err = process.communicate(timeout=120)
        assert not err or (err.startswith('error: ') and err.count('\n') == 1), err
        return process.returncode, out, err

    def kind_of_mmcv(self) -> str:
        """Which mmcv the environment imports."""
        code = 'import mmvheat, cv2, mmcv.ops; print(mmcv.kind)'
        command = [str(self.venv / 'bin' / 'python'), '-c', code]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=True)
        return done.stdout.strip()


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A small project without an environment."""
    return Project(tmp_path_factory.mktemp('clone'))
