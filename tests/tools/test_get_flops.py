"""The counting tool: a line for a config, a table for the published rows, a line for mistakes."""

from pathlib import Path
from types import ModuleType

import pytest
from in_process import load_script

from mmvheat.cli.command import run_command

ROOT = Path(__file__).parents[2]
TINY = ROOT / 'configs/classification/vheat-tiny_16xb128_in1k.py'


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    pytest.importorskip('mmcv')
    return load_script('tools/get_flops.py')


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (
            '',
            '30.853 M parameters, 4.936 GFLOPs (a multiply-add is one) at 224 x 224 (H x W)',
        ),
        ('--inference-form --shape 224', '29.558 M parameters, 4.589 GFLOPs'),
        ('--shape 64 96', 'at 64 x 96 (H x W), training form'),
        ('--cfg-options model.head.num_classes=10', '30.092 M parameters'),
    ],
)
def test_a_config_is_one_line(tool, capsys, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    tool.main([str(TINY), *options.split()])
    out = capsys.readouterr().out
    assert said in out and out.count('\n') == 1
    assert not list(tmp_path.iterdir())


def test_table(tool, capsys, monkeypatch):
    """Two of its rows; tests/models/test_counting.py counts them all."""
    published = tool.read_published(ROOT / 'configs')
    assert len(published) == 11
    some = [row for row in published if 'vheat-b' in row.name and 'upernet' not in row.name]
    monkeypatch.setattr(tool, 'read_published', lambda configs: some)
    tool.main(['--table'])
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith(('vh', 'mask'))}
    assert len(rows) == len(some) == 2
    assert rows['vheat-base_16xb128_in1k'] == ['224x224', '87.50', '87', '14.92', '14.9']
    assert rows['mask-rcnn_vheat-b_fpn_1x_coco'][1:] == ['114.69', '115', '526.24', '526']


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ([], 'give a config or --table'),
        ([str(TINY), '--table'], 'give a config or --table'),
        (['--table', '--shape', '64'], '--table goes alone'),
        (['nowhere.py'], 'nowhere.py does not exist'),
        ([str(ROOT / 'configs/_base_/vheat_coco.py')], 'has no model'),
        ([str(TINY), '--shape', '0'], '>= 1, got 0'),
        ([str(TINY), '--shape', '1', '2', '3'], 'got 1 2 3'),
        ([str(TINY), '--cfg-options', 'model.backbone.arch=huge'], "unknown arch 'huge'"),
    ],
)
def test_mistakes_are_one_line(tool, capsys, arguments, said):
    try:
        status = run_command(lambda: tool.main(arguments))
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2
    assert error.startswith('error: ') and error.count('\n') == 1, error
    assert said in error
