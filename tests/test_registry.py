"""The names resolve from every library's scope, whatever was imported before."""

import json
import subprocess
import sys

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope

from mmvheat import mmcv_ops, models
from mmvheat.registry import MODELS

NAMES = ('VHeat', 'MMDET_VHEAT', 'MMSEG_VHEAT')
SCOPES = ('mmdet', 'mmseg', 'mmpretrain')

# Resolves what it is told to, and says for each name which class came out of it.
PROBE = (
    f"""
import importlib, json, sys
from importlib.util import module_from_spec, spec_from_file_location
from mmengine.config import Config

# mmdet without a compiled mmcv: its stand-in, without the import of mmvheat that brings it.
spec = spec_from_file_location('stand_in', {mmcv_ops.__file__!r})
module = module_from_spec(spec)
spec.loader.exec_module(module)
module.install()
"""
    + """
for config, scope, name in json.loads(sys.argv[1]):
    if config:
        Config.fromfile(config)  # imports what its custom_imports names
    known = 'mmvheat' in sys.modules
    found = importlib.import_module(f'{scope}.registry').MODELS.get(name)
    print(json.dumps([scope, name, known, found and f'{found.__module__}.{found.__qualname__}']))
"""
)


def resolve(steps: list[tuple[str | None, str, str]]) -> list[list]:
    """Run the probe in a process that has imported nothing yet."""
    command = [sys.executable, '-W', 'ignore', '-c', PROBE, json.dumps(steps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('[')]


def place(name: str) -> str:
    """Where the class of a registered name is defined."""
    cls = getattr(models, name.removeprefix('mmvheat.'))
    return f'{cls.__module__}.{cls.__qualname__}'


@pytest.mark.parametrize('order', [SCOPES, ('mmpretrain',)], ids='-'.join)
def test_a_prefixed_name_needs_no_import(order):
    names = [f'mmvheat.{name}' for name in NAMES]
    steps = [(None, scope, name) for scope in order for name in names]
    resolved = resolve(steps)
    # Nothing had imported mmvheat before the first name was looked up.
    assert [known for _, _, known, _ in resolved] == [False] + [True] * (len(steps) - 1)
    assert [found for *_, found in resolved] == [place(name) for _, _, name in steps]


def test_a_plain_name_resolves_after_custom_imports(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("custom_imports = dict(imports=['mmvheat'])\n")
    steps = [(str(config), scope, name) for scope in reversed(SCOPES) for name in NAMES]
    # A library first, then the plugin, then the two others.
    resolved = resolve([(None, 'mmseg', 'EncoderDecoder'), *steps])
    assert resolved[0][2:] == [False, 'mmseg.models.segmentors.encoder_decoder.EncoderDecoder']
    assert resolved[1:] == [[scope, name, True, place(name)] for _, scope, name in steps]


@pytest.mark.parametrize('name', NAMES)
def test_one_class_in_both_registries(name):
    assert MODELS.get(name) is MMENGINE_MODELS.get(name) is getattr(models, name)
    assert MMENGINE_MODELS.get(f'mmvheat.{name}') is MODELS.get(name)
    assert MODELS.scope == 'mmvheat' and MODELS.parent is MMENGINE_MODELS


def test_a_config_builds_the_backbone():
    arch = dict(depths=(1, 1), dims=4)
    config = Config(dict(type='mmvheat.VHeat', arch=arch, out_indices=(0, 1)))
    with DefaultScope.overwrite_default_scope('mmengine'):
        model = MMENGINE_MODELS.build(config)
    assert type(model) is models.VHeat
    assert model.out_channels == (4, 8)


def test_an_unknown_name_is_an_error():
    with pytest.raises(KeyError, match='VHeet'):
        MMENGINE_MODELS.build(dict(type='mmvheat.VHeet'))
