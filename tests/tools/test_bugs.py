"""Every command line: a bug of ours keeps its traceback, a mistake shows one if it is wanted."""

import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from in_process import run_script

from mmvheat.cli.command import run_command

ROOT = Path(__file__).parents[2]
SEGMENTATION = ROOT / 'tests/tools/configs/segmentation.py'
LOCAL_FILE = ('mmvheat.checkpoint.io.download', 'local_file')
# What each command line runs through: a function of ours, as (module, attribute).
PLANTED = {
    'tools/train.py {segmentation}': ('mmvheat.cli.prepare', 'check_initial_weights'),
    'tools/train.py {segmentation} --work-dir w': ('mmvheat.models.vheat', 'resolve_arch'),
    'tools/test.py {segmentation} w.pth': ('mmvheat.engine.stack_fixes', 'read_checkpoint'),
    'tools/test.py {segmentation} w.pth --tta': ('mmvheat.engine.tta', '_flipped'),
    'tools/demo_image.py i.png {segmentation} w.pth': ('mmvheat.engine.distributed', 'uses_cpu'),
    'tools/check_data.py {segmentation}': ('mmvheat.cli.config', '_complete_dataloader'),
    'tools/get_flops.py {segmentation}': ('mmvheat.models.vheat', '_image_size'),
    'tools/fold_for_inference.py w.pth out.pth --size 64': LOCAL_FILE,
    'interpolate4downstream.py --pt_pth w.pth --pt_size 64 --tg_pth o.pth --tg_size 96': LOCAL_FILE,
    'tools/prepare_digits.py --data-root d': ('digits.prepare', 'check_root'),
    'mmvheat/engine/launch.py 1 tools/test.py': ('mmvheat.cli.launch', 'uses_cpu'),
}
MISTAKES = {
    'tools/train.py gone.py': 'gone.py does not exist',
    'tools/test.py {segmentation} gone.pth': 'gone.pth does not exist',
    'tools/demo_image.py gone.png {segmentation} w.pth': 'gone.png does not exist',
    'tools/check_data.py gone.py': 'gone.py does not exist',
    'tools/get_flops.py {segmentation} --cfg-options model.backbone.arch=huge': "arch 'huge'",
    'tools/fold_for_inference.py gone.pth out.pth --size 64': 'gone.pth does not exist',
    'interpolate4downstream.py --pt_pth gone.pth --pt_size 64 --tg_pth out.pth --tg_size 96': (
        'gone.pth does not exist'
    ),
    'tools/prepare_digits.py --seed -1': 'seed must be at least 0, got -1',
    'tools/benchmarks/backbone.py --models vheat-tiny --baseline swin': 'the tiny models are vheat',
    'mmvheat/engine/launch.py two tools/test.py': "an integer >= 1, got 'two'",
}


@pytest.fixture
def folder(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an image and a checkpoint, for commands that are run in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('TINY_DATA', str(tiny_data))
    for name in ('RANK', 'SLURM_PROCID', 'DISPLAY', 'WAYLAND_DISPLAY', 'MMVHEAT_TRACEBACK'):
        monkeypatch.delenv(name, raising=False)
    torch.save({'state_dict': {'backbone.weight': torch.zeros(2)}, 'meta': {}}, 'w.pth')
    shutil.copy(min((tiny_data / 'scenes' / 'val').glob('*.png')), 'i.png')
    return tmp_path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """Run a command line in this process, and return its status."""

    def run(command: str) -> int:
        script, *arguments = command.format(segmentation=SEGMENTATION).split()
        path = ROOT / script
        monkeypatch.syspath_prepend(str(path.parent))
        monkeypatch.setattr(sys, 'argv', [str(path), *arguments])
        if script.startswith('mmvheat'):
            return run_command(importlib.import_module('mmvheat.cli.launch').main)
        return run_script(script, *arguments)

    return run


@pytest.mark.parametrize('command', PLANTED)
def test_a_bug_keeps_its_traceback(command, run, monkeypatch, capsys):
    """A ValueError of our own code, which it does not call the user's, is let through."""
    name, attribute = PLANTED[command]
    module = importlib.import_module(name)

    def planted(*args, **kwargs):
        raise ValueError('planted')

    # The bug lies in the package: its frames bear the name of one of its files.
    planted.__code__ = planted.__code__.replace(co_filename=module.__file__)
    monkeypatch.setattr(module, attribute, planted)
    with pytest.raises(ValueError, match='^planted$') as raised:
        run(command)
    assert type(raised.value) is ValueError
    assert not any(line.startswith('error: ') for line in capsys.readouterr().err.splitlines())


@pytest.mark.parametrize('command', MISTAKES)
def test_the_traceback_of_a_mistake_can_be_had(command, run, monkeypatch, capsys):
    assert run(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ') and MISTAKES[command] in line
    monkeypatch.setenv('MMVHEAT_TRACEBACK', '1')
    assert run(command) == 2
    *traceback, last = capsys.readouterr().err.splitlines()
    assert last == line
    assert any(text.startswith('Traceback (most recent call last)') for text in traceback)
