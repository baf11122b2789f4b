"""In the clone and in an installed wheel: models by name, configs and tools where mim looks."""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
# What a build reads, without what else lies around in a clone.
FOLDERS = ('configs', 'docs', 'mmvheat', 'tests', 'tools')
FILES = ('*.py', '*.toml', '*.yml', '*.in', '*.md', 'LICENSE', 'Makefile')
# Tools that only serve a clone.
LEFT_OUT = {'demo', 'matrix', 'setup'}

BY_NAME = """
import {order}
import importlib, sys, torch
from pathlib import Path
from mmengine.config import Config
from mmpretrain.apis.model import ModelHub

home = Path(mmvheat.__file__).parent
assert home == Path(sys.argv[1], 'mmvheat'), home
names = ['vheat-base_16xb128_in1k', 'vheat-small_16xb128_in1k', 'vheat-tiny_16xb128_in1k']
assert mmpretrain.list_models('vheat*', task='Image Classification') == names
assert len(mmpretrain.list_models()) > len(mmpretrain.list_models('vheat*')) == 5
importlib.reload(mmvheat)  # which registers what is there already
assert len(mmpretrain.list_models('vheat*')) == 5

found = ModelHub.get(names[-1])
assert found.weights.endswith('vHeat_tiny.pth') and found.results[0].metrics
assert Path(found.config.filename).is_relative_to(home)


def get_small(**arguments):
    arch = dict(_delete_=True, depths=(1, 1, 1, 1), dims=4)
    backbone, head = dict(arch=arch, img_size=32), dict(in_channels=32)
    return mmpretrain.get_model(names[-1], backbone=backbone, head=head, **arguments)


model = get_small()
assert model(torch.rand(2, 3, 32, 32)).shape == (2, 1000)

# The published file, by which the weights of that name are meant.
state = {{key.removeprefix('backbone.'): torch.rand_like(tensor)
         for key, tensor in model.state_dict().items()}}
for ours, published in (('outnorm3', 'classifier.0'), ('head.fc', 'classifier.3')):
    for part in ('weight', 'bias'):
        state[f'{{published}}.{{part}}'] = state.pop(f'{{ours}}.{{part}}')
torch.save(dict(model=state), 'vHeat.pth')
loaded = get_small(pretrained='vHeat.pth')
torch.testing.assert_close(loaded.head.fc.weight, state['classifier.3.weight'])
torch.testing.assert_close(loaded.backbone.freq_embed[3], state['freq_embed.3'])

for path in (
    'classification/vheat-tiny_16xb128_in1k.py',
    'detection/mask-rcnn_vheat-t_fpn_1x_coco.py',
    'segmentation/vheat-t_upernet_8xb2-160k_ade20k-512x512.py',
):
    config = Config.fromfile(home / '.mim' / 'configs' / path)
    assert config.model.backbone.type == 'mmvheat.VHeat' and 'default_hooks' in config
"""


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run Python, ``python(place, *arguments)``, in an empty folder, with one place to import from.

    It must succeed; returns what it prints.
    """
    monkeypatch.chdir(tmp_path)

    def python(place: Path, *arguments: object) -> str:
        command = [sys.executable, '-W', 'ignore', *map(str, arguments)]
        env = dict(os.environ, PYTHONPATH=str(place), OMP_NUM_THREADS='1')
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
        return done.stdout

    return python


@pytest.fixture(scope='module')
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What is built of a copy of the clone: an sdist, and a wheel of each of the two."""
    pytest.importorskip('pip')
    pytest.importorskip('wheel')
    folder = tmp_path_factory.mktemp('built')
    clone, wheels = folder / 'clone', folder / 'wheels'
    no_caches = shutil.ignore_patterns('__pycache__')
    for name in FOLDERS:
        shutil.copytree(ROOT / name, clone / name, symlinks=True, ignore=no_caches)
    for path in [path for pattern in FILES for path in ROOT.glob(pattern)]:
        shutil.copy(path, clone)
    code = f'from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})'
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=clone, check=True)
    (sdist,) = folder.glob('*.tar.gz')
    offline = ['--no-index', '--no-deps', '--no-build-isolation']
    found = {'sdist': sdist}
    for name, source in (('of the sdist', sdist), ('of the clone', clone)):
        out = wheels / name
        command = [sys.executable, '-m', 'pip', 'wheel', '-q', *offline, '-w', out, source]
        subprocess.run(command, check=True)
        (found[name],) = out.glob('*.whl')
    return found


@pytest.fixture(scope='module')
def installed(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed, and nothing else."""
    folder = tmp_path_factory.mktemp('site')
    options = ['-q', '--no-index', '--no-deps', '--target', folder]
    command = [sys.executable, '-m', 'pip', 'install', *options, built['of the sdist']]
    subprocess.run(command, check=True)
    return folder


def files_below(folder: Path) -> set[str]:
    """Names of all files in a folder, relative to it; caches left out."""
    found = (path for path in folder.rglob('*') if path.is_file() and path.suffix != '.pyc')
    return {path.relative_to(folder).as_posix() for path in found}


@pytest.mark.slow
def test_models_are_found_by_name_in_the_clone(python):
    pytest.importorskip('mmpretrain')
    python(ROOT, '-c', BY_NAME.format(order='mmvheat, mmpretrain'), ROOT)


@pytest.mark.slow
def test_models_are_found_by_name_in_an_installed_wheel(python, installed):
    pytest.importorskip('mmpretrain')
    python(installed, '-c', BY_NAME.format(order='mmpretrain, mmvheat'), installed)


def test_an_index_that_is_registered_already_stays(python):
    pytest.importorskip('mmpretrain')
    code = f"""
import mmpretrain
from mmpretrain.apis.model import ModelHub
ModelHub.register_model_index({str(ROOT / 'model-index.yml')!r})
import mmvheat
assert 'mask-rcnn_vheat-t_fpn_1x_coco' in mmpretrain.list_models()
"""
    python(ROOT, '-c', code)


@pytest.mark.slow
def test_the_wheel_holds_configs_and_tools(built, installed):
    inside = files_below(installed / 'mmvheat' / '.mim')
    expected = {f'configs/{name}' for name in files_below(ROOT / 'configs')}
    tools = files_below(ROOT / 'tools')
    expected |= {f'tools/{name}' for name in tools if name.partition('/')[0] not in LEFT_OUT}
    assert inside == expected | {'model-index.yml'}
    assert os.access(installed / 'mmvheat' / '.mim' / 'tools' / 'dist_train.sh', os.X_OK)
    contents = [
        {(entry.filename, entry.CRC) for entry in ZipFile(built[name]).infolist()}
        for name in ('of the clone', 'of the sdist')
    ]
    differing = {name for name, _ in contents[0] ^ contents[1]}
    assert all('.dist-info/' in name for name in differing), differing


@pytest.mark.slow
def test_the_sdist_holds_the_sources(built):
    with tarfile.open(built['sdist']) as file:
        names = {member.name.partition('/')[2] for member in file.getmembers() if member.isfile()}
    expected = {f'{folder}/{name}' for folder in FOLDERS for name in files_below(ROOT / folder)}
    expected |= {path.name for pattern in FILES for path in ROOT.glob(pattern)}
    assert expected <= names


@pytest.mark.slow
@pytest.mark.parametrize('tool', ['train', 'test', 'get_flops', 'prepare_digits'])
def test_tools_of_the_wheel_answer(tool, python, installed):
    printed = python(installed, installed / 'mmvheat' / '.mim' / 'tools' / f'{tool}.py', '--help')
    assert printed.startswith(f'usage: {tool}.py')


@pytest.mark.slow
def test_the_installed_package_says_where_its_configs_are(python, installed):
    code = 'from mmvheat.cli.matching_configs import config_folder; print(config_folder())'
    assert python(installed, '-c', code).strip() == str(installed / 'mmvheat' / '.mim' / 'configs')
