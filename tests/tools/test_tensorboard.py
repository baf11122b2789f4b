"""``--tensorboard``: the curves of a training, where TensorBoard reads them."""

from pathlib import Path

import pytest
from in_process import run_script

import mmvheat.cli.prepare

CONFIGS = Path(__file__).parent / 'configs'


@pytest.mark.parametrize('library', ['classification', 'segmentation'])
def test_the_curves_are_written(library, tiny_data, tmp_path, monkeypatch):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv('TINY_DATA', str(tiny_data))
    flags = ('--tensorboard', '--work-dir', tmp_path)
    assert run_script('tools/train.py', CONFIGS / f'{library}.py', *flags) == 0
    (folder,) = {path.parent for path in tmp_path.rglob('events.out.tfevents.*')}
    events = EventAccumulator(str(folder)).Reload()
    assert {'loss', 'lr'} <= set(events.Tags()['scalars'])
    # What mmengine writes by itself stays, and has the same losses.
    assert list(tmp_path.rglob('vis_data/scalars.json'))
    assert all(event.value > 0 for event in events.Scalars('loss'))


def test_without_tensorboard_one_line_says_what_to_install(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(mmvheat.cli.prepare, 'find_spec', lambda name: None)
    flags = ('--tensorboard', '--work-dir', tmp_path / 'work')
    assert run_script('tools/train.py', CONFIGS / 'classification.py', *flags) == 2
    assert capfd.readouterr().err.splitlines()[-1] == (
        'error: --tensorboard needs tensorboard, which is not installed: pip install tensorboard'
    )
    assert not (tmp_path / 'work').exists()
