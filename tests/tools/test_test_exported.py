"""tools/test_exported.py: the metrics of an exported file are those of the checkpoint."""

import pickle
from pathlib import Path

import pytest
import torch
from in_process import last_metrics, run_script
from tiny_models import CLASSES, make_tiny_model
from tiny_onnx import write_tiny_onnx

CONFIGS = Path(__file__).parent / 'configs'


@pytest.mark.slow
@pytest.mark.parametrize('task', CLASSES)
def test_an_exported_file_has_the_metrics_of_its_checkpoint(task, tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TINY_DATA', str(tiny_data))
    config, checkpoint, file = CONFIGS / f'{task}.py', tmp_path / 'a.pth', tmp_path / 'a.onnx'
    torch.manual_seed(0)
    make_tiny_model(config, CLASSES[task], checkpoint)
    assert run_script('tools/export.py', config, checkpoint, file, '--batch', 1) == 0
    for tool, source in (('test', checkpoint), ('test_exported', file)):
        options = ['--work-dir', tool, '--out', f'{tool}.pkl']
        assert run_script(f'tools/{tool}.py', config, source, *options) == 0
    expected, found = last_metrics('test'), last_metrics('test_exported')
    times = {'time', 'data_time'}
    assert set(found) == set(expected) and set(found) - times
    for name in set(found) - times:
        assert found[name] == pytest.approx(expected[name], abs=1e-3), name
    samples = [pickle.loads(Path(f'{tool}.pkl').read_bytes()) for tool in ('test', 'test_exported')]
    for ours, theirs in zip(*samples, strict=True):
        if task == 'detection':
            ours, theirs = (one['pred_instances']['bboxes'] for one in (ours, theirs))
        elif task == 'classification':
            ours, theirs = (one['pred_score'] for one in (ours, theirs))
        else:
            ours, theirs = (torch.from_numpy(one['pred_sem_seg']) for one in (ours, theirs))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.fixture
def refused(tiny_data, tmp_path, monkeypatch, capfd):
    """Run the tool on a file, which it must refuse in one line before it writes anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TINY_DATA', str(tiny_data))

    def refused(task: str, file: str, *options: str) -> str:
        before = sorted(tmp_path.rglob('*'))
        assert run_script('tools/test_exported.py', CONFIGS / f'{task}.py', file, *options) == 2
        assert sorted(tmp_path.rglob('*')) == before
        (line,) = [one for one in capfd.readouterr().err.splitlines() if one.startswith('error: ')]
        return line

    return refused


def test_a_file_of_another_task_is_refused(refused):
    write_tiny_onnx(Path('a.onnx'), 'segmentation')
    line = refused('classification', 'a.onnx')
    assert 'a.onnx gives segmentation' in line and 'tests classification' in line


def test_a_file_that_is_not_there_is_refused(refused):
    assert 'a.onnx does not exist' in refused('classification', 'a.onnx')


def test_a_wrong_out_is_refused(refused):
    write_tiny_onnx(Path('a.onnx'), 'classification')
    assert 'ends in .pkl' in refused('classification', 'a.onnx', '--out', 'found.json')
