"""Images of a config's training data: which they are, and what is said where there are none."""

from pathlib import Path

import pytest

from mmvheat.cli.calibration import spread, training_images
from mmvheat.cli.config import load_config
from mmvheat.errors import UserError

CONFIGS = Path(__file__).parents[1] / 'tools' / 'configs'
FOLDERS = {
    'classification': 'classes/train',
    'detection': 'scenes/train',
    'segmentation': 'scenes/train',
}


@pytest.fixture(autouse=True)
def data(tiny_data, monkeypatch):
    monkeypatch.setenv('TINY_DATA', str(tiny_data))


def load(task: str, **options: object):
    return load_config(str(CONFIGS / f'{task}.py'), options)


@pytest.mark.parametrize('task', FOLDERS)
def test_they_are_of_the_training_data(task, tiny_data):
    cfg = load(task)
    found = training_images(cfg, 'config.py', 3)
    assert len(set(found)) == 3
    assert all(path.is_relative_to(tiny_data / FOLDERS[task]) for path in found)
    assert len(training_images(cfg, 'config.py', 100)) == 7


def test_they_are_found_in_wrappers():
    cfg = load('classification')
    inner = cfg.train_dataloader.dataset
    twice = dict(type='RepeatDataset', times=2, dataset=inner)
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[twice, inner])
    assert len(training_images(cfg, 'config.py', 100)) == 7


def test_what_is_not_there_is_one_line(tmp_path):
    missing = load('segmentation', **{'train_dataloader.dataset.data_root': str(tmp_path)})
    with pytest.raises(UserError, match='training data of config.py, which --int8'):
        training_images(missing, 'config.py', 3)
    cfg = load('classification')
    cfg.pop('train_dataloader')
    with pytest.raises(UserError, match='give --calibration DIR'):
        training_images(cfg, 'config.py', 3)


def test_what_is_chosen_is_evenly_spread():
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(['a', 'b'], 4) == ['a', 'b']
