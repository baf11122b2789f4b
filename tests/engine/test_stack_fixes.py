import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as files
from safetensors.torch import save_file
from web import hostile_pickle, serve

from mmvheat.engine import apply_stack_fixes


@pytest.fixture(autouse=True)
def fixes() -> None:
    apply_stack_fixes()
    apply_stack_fixes()


def test_mmengine_reads_its_own_checkpoints(tmp_path):
    history = HistoryBuffer()
    for loss in (2.0, 1.0):
        history.update(loss)
    checkpoint = {'message_hub': {'loss': history, 'lr': np.float64(0.1)}, 'state_dict': {}}
    torch.save(checkpoint, tmp_path / 'iter_2.pth')
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / 'iter_2.pth'))
    assert loaded['message_hub']['loss'].mean() == 1.5
    assert loaded['message_hub']['lr'] == 0.1


def test_code_is_refused_all_the_same(tmp_path):
    torch.save({'state_dict': print}, tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match="wants to load 'builtins.print', which could run code"):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'evil.pth'))


def test_mmengine_reads_safetensors(tmp_path):
    weight = torch.randn(2, 3)
    save_file({'backbone.weight': weight}, tmp_path / 'weights.safetensors')
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / 'weights.safetensors'))
    assert torch.equal(loaded['state_dict']['backbone.weight'], weight)


# Every scheme of mmengine's ---------------------------------------------------------------------


SOURCES = {
    '': 'file.pth',
    'http://': None,
    'https://': None,
    'modelzoo://': 'modelzoo://weights',
    'torchvision://': 'torchvision://weights',
    'open-mmlab://': 'open-mmlab://weights',
    'openmmlab://': 'openmmlab://old-name',
    'openmmlab:// in its folder': 'openmmlab://file',
    'mmcls://': 'mmcls://weights',
    'pavi://': 'pavi://weights',
    r'(\S+\:)?s3://': 'open-mmlab:s3://bucket/weights.pth',
    r'(\S+\:)?petrel://': 'petrel://bucket/weights.pth',
    'safetensors': 'file.safetensors',
}


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """All that mmengine fetches from holds one file; its place is faked, not its reading."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    with serve() as web:
        names = {'weights': web.url('weights.pth'), 'file': 'file.pth'}
        for function in ('get_torchvision_models', 'get_external_models', 'get_mmcls_models'):
            monkeypatch.setattr(files, function, lambda: names)
        monkeypatch.setattr(files, 'get_deprecated_model_names', lambda: {'old-name': 'weights'})

        def download(path: str) -> None:
            Path(path).write_bytes(web.files['weights.pth'])

        model = SimpleNamespace(name='weights.pth', download=download)
        pavi = SimpleNamespace(modelcloud=SimpleNamespace(get=lambda name: model))
        client = SimpleNamespace(
            Client=lambda *_, **__: SimpleNamespace(Get=lambda _: web.files['weights.pth'])
        )
        for name, module in (
            ('pavi', pavi),
            ('petrel_client', SimpleNamespace(client=client)),
            ('petrel_client.client', client),
        ):
            monkeypatch.setitem(sys.modules, name, module)
        yield web


@pytest.mark.parametrize('scheme', SOURCES)
def test_no_scheme_runs_code(scheme, sources, tmp_path):
    canary = tmp_path / 'code-was-run'
    for name in ('file.pth', 'file.safetensors'):
        Path(name).write_bytes(hostile_pickle(canary))
    sources.files['weights.pth'] = hostile_pickle(canary)
    name = SOURCES[scheme] or sources.url('weights.pth')
    with pytest.raises(ValueError) as raised:
        CheckpointLoader.load_checkpoint(name, map_location='cpu')
    assert 'could run code' in str(raised.value) or scheme == 'safetensors'
    assert '\n' not in str(raised.value)
    assert not canary.exists()


@pytest.mark.parametrize('scheme', [name for name in SOURCES if name != 'safetensors'])
def test_every_scheme_loads_a_good_file(scheme, sources):
    weight = torch.randn(2, 3)
    torch.save({'state_dict': {'backbone.weight': weight}, 'meta': {}}, 'file.pth')
    sources.files['weights.pth'] = Path('file.pth').read_bytes()
    name = SOURCES[scheme] or sources.url('weights.pth')
    state = CheckpointLoader.load_checkpoint(name, map_location='cpu')['state_dict']
    # Of a classifier of mmcls mmengine takes the backbone alone.
    assert torch.equal(state['weight' if scheme == 'mmcls://' else 'backbone.weight'], weight)


def test_no_scheme_is_forgotten():
    """A new one of mmengine's shows here."""
    assert CheckpointLoader._schemes.keys() <= SOURCES.keys()
    loaders = CheckpointLoader._schemes.values()
    assert {loader.__module__ for loader in loaders} == {'mmvheat.engine.stack_fixes'}


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('torchvision://weight', 'torchvision://weight is none of the 2 names'),
        ('openmmlab://gone', 'openmmlab://gone is none of the 2 names'),
        ('pavi://weights', 'pavi://weights needs pavi'),
        ('s3://bucket/weights.pth', 'needs petrel_client'),
        ('gone.pth', 'gone.pth does not exist'),
        ('gopher://host/x.pth', 'does not exist'),
    ],
)
def test_a_name_that_leads_nowhere_is_one_line(name, said, sources, monkeypatch):
    for module in ('pavi', 'petrel_client', 'petrel_client.client'):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=said) as raised:
        CheckpointLoader.load_checkpoint(name)
    assert '\n' not in str(raised.value)
