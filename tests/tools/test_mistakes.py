"""Whatever a user gets wrong: one clear line, exit status 2, nothing written."""

import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from in_process import load_script

from mmvheat.cli.command import run_command

CONFIGS = Path(__file__).parent / 'configs'


class _Evil:
    def __reduce__(self) -> tuple:
        return os.system, ('touch evil-was-run',)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the mistakes below need."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.delenv('DISPLAY', raising=False)
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    for name in ('classification', 'segmentation', 'detection'):
        shutil.copy(CONFIGS / f'{name}.py', tmp_path)
    Path('broken.py').write_text('model = dict(\n')
    Path('orphan.py').write_text("_base_ = './parent.py'\n")
    Path('scopeless.py').write_text('model = dict()\n')
    Path('foreign.py').write_text("default_scope = 'mmpose'\n")
    Path('empty.py').write_text("default_scope = 'mmseg'\n")
    torch.save({'state_dict': {'backbone.weight': torch.zeros(2)}}, 'weights.pth')
    torch.save({'model': {'weight': torch.zeros(2)}}, 'published.pth')
    whole = Path('weights.pth').read_bytes()
    Path('truncated.pth').write_bytes(whole[: len(whole) // 2])
    Path('text.pth').write_text('not a checkpoint')
    Path('evil.pth').write_bytes(pickle.dumps({'state_dict': _Evil()}))
    Path('file').touch()
    return tmp_path


def _files() -> set[Path]:
    return {path for path in Path().rglob('*') if '__pycache__' not in path.parts}


def _one_line(main: Callable[[], None], capsys: pytest.CaptureFixture) -> str:
    before = _files()
    capsys.readouterr()
    try:
        status = run_command(main)
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2
    assert error.startswith('error: ') and error.count('\n') == 1, error
    assert _files() == before
    return error


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ('nowhere.py', 'nowhere.py does not exist'),
        ('.', 'is no file'),
        ('broken.py', 'broken.py cannot be read as a config: SyntaxError'),
        ('orphan.py', 'parent.py'),
        ('scopeless.py', "no default_scope: expected 'mmpretrain', 'mmdet', 'mmseg'"),
        ('foreign.py', "default_scope='mmpose'"),
        ('empty.py', 'has no model'),
        ('segmentation.py --unknown', '--unknown'),
        ('segmentation.py --launcher ssh', 'ssh'),
        ('segmentation.py --cfg-options lr', "KEY=VALUE pairs, got 'lr'"),
        ('segmentation.py --cfg-options model.type.depth=3', 'model.type.depth=3'),
        ('segmentation.py --work-dir file/deeper', 'file/deeper cannot be made'),
        ('segmentation.py --auto-scale-lr', 'auto_scale_lr=dict(base_batch_size=...)'),
        ('segmentation.py --amp --cfg-options optim_wrapper.type=Other', "got 'Other'"),
        ('segmentation.py --cfg-options load_from=nowhere.pth', 'nowhere.pth does not exist'),
        (
            'segmentation.py --cfg-options model.backbone.init_cfg.type=Pretrained '
            'model.backbone.init_cfg.checkpoint=gone.pth',
            'pretrained weights gone.pth do not exist',
        ),
        ('segmentation.py --resume nowhere.pth', 'nowhere.pth does not exist'),
        ('segmentation.py --resume truncated.pth', 'truncated.pth is truncated'),
        ('segmentation.py --resume weights.pth', 'weights.pth lacks meta'),
        ('segmentation.py --resume evil.pth', 'could run code'),
    ],
)
def test_train(arguments: str, said: str, here: Path, capsys: pytest.CaptureFixture) -> None:
    line = _one_line(lambda: load_script('tools/train.py').main(arguments.split()), capsys)
    assert said in line


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ('segmentation.py nowhere.pth', 'nowhere.pth does not exist'),
        ('segmentation.py truncated.pth', 'truncated.pth is truncated'),
        ('segmentation.py text.pth', 'text.pth is not a checkpoint'),
        ('segmentation.py evil.pth', 'could run code'),
        ('segmentation.py published.pth', 'or a published one of vHeat'),
        ('nowhere.py weights.pth', 'nowhere.py does not exist'),
        ('empty.py weights.pth', 'has no model'),
        ('segmentation.py weights.pth --show', 'use --show-dir'),
        ('segmentation.py weights.pth --show-dir file', '--show-dir file cannot be made'),
        ('segmentation.py weights.pth --out file', '--out file cannot be made'),
        ('classification.py weights.pth --out scores.json', 'ends in .pkl'),
        ('classification.py weights.pth --tta --show-dir drawn', 'either --tta or --show'),
        (
            'detection.py weights.pth --tta --cfg-options test_dataloader.dataset.pipeline=[]',
            'by packing',
        ),
    ],
)
def test_test(arguments: str, said: str, here: Path, capsys: pytest.CaptureFixture) -> None:
    line = _one_line(lambda: load_script('tools/test.py').main(arguments.split()), capsys)
    assert said in line


@pytest.mark.parametrize(
    ('command', 'said'),
    [
        ('dist_train.sh', 'CONFIG GPUS'),
        ('dist_train.sh nowhere.py 2', 'nowhere.py does not exist'),
        ('dist_test.sh segmentation.py weights.pth', 'CONFIG CHECKPOINT GPUS'),
        ('dist_test.sh segmentation.py nowhere.pth 2', 'nowhere.pth does not exist'),
        ('dist_train.sh segmentation.py two', "an integer >= 1, got 'two'"),
        ('dist_train.sh segmentation.py 0', "an integer >= 1, got '0'"),
    ],
)
def test_scripts(command: str, said: str, here: Path, start: Callable) -> None:
    process: subprocess.Popen = start(*command.split())
    out, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert error.startswith('error: ') and error.count('\n') == 1, error
    assert said in error
    assert out == ''
