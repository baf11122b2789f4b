"""Data that is not there, is empty or has other classes than the model: one clear line."""

import pytest
from mmengine.dataset import BaseDataset, ConcatDataset
from mmengine.registry import DATASETS
from torch import nn

from mmvheat.engine.dataset_fit import check_classes, check_samples, empty_data_errors
from mmvheat.engine.runner import Runner
from mmvheat.errors import UserError


class _Images(BaseDataset):
    """Samples that are given, as the libraries' data sets hold them."""

    METAINFO = dict(classes=('one', 'two', 'three', 'four'))

    def __init__(self, samples, **options):
        self.samples = samples
        super().__init__(**options)

    def load_data_list(self):
        return self.samples


def _files(folder, count, name='img_path'):
    paths = [folder / f'{name}{i}.png' for i in range(count)]
    for path in paths:
        path.touch()
    return [{name: str(path)} for path in paths]


def test_data_that_is_there_is_taken(tmp_path):
    remote = [{'img_path': 's3://bucket/a.png', 'seg_map_path': None}]
    check_samples(ConcatDataset([_Images(_files(tmp_path, 3)), _Images(remote)]))


@pytest.mark.parametrize('wrap', [lambda data: data, lambda data: ConcatDataset([data])])
def test_an_empty_dataset_names_its_places(wrap):
    data = wrap(_Images([], data_root='here', ann_file='labels.json', serialize_data=False))
    with pytest.raises(UserError, match='_Images found no samples in data_root=here, ann_'):
        check_samples(data)


@pytest.mark.parametrize('name', ['img_path', 'seg_map_path'])
def test_a_file_that_is_missing_is_named(name, tmp_path):
    samples = _files(tmp_path, 3, name)
    (tmp_path / f'{name}2.png').unlink()
    with pytest.raises(UserError, match=rf'_Images looks for {name} .*{name}2\.png'):
        check_samples(_Images(samples))


def test_classes_that_the_annotations_lack_are_counted(tmp_path):
    data = _Images(_files(tmp_path, 1))
    data.cat_ids = [1, 2]
    with pytest.raises(UserError, match='_Images finds 2 of the 4 classes'):
        check_samples(data)


@pytest.mark.parametrize('wrap', [lambda data: data, lambda data: dict(type='W', dataset=data)])
def test_what_mmengine_fails_on_names_its_places(wrap):
    config = wrap(dict(type='_Images', data_root='here'))
    with pytest.raises(UserError, match='_Images found no samples in data_root=here'):
        with empty_data_errors(config):
            _Images([], data_root='here')


@pytest.mark.parametrize('options', [{}, dict(serialize_data=False)])
def test_the_runner_looks(options):
    DATASETS.register_module(module=_Images, force=True)
    dataset = dict(type='_Images', samples=[], **options)
    loader = dict(dataset=dataset, sampler=dict(type='DefaultSampler', shuffle=False), batch_size=1)
    with pytest.raises(UserError, match='_Images found no samples'):
        Runner.build_dataloader(loader)


def _head(count):
    head = nn.Identity()
    head.num_classes = count
    return head


@pytest.mark.parametrize(
    'name', ['head', 'decode_head', 'bbox_head', 'roi_head.bbox_head', 'roi_head.bbox_head.0']
)
def test_classes_of_data_and_model(name):
    def build(count):
        made = _head(count)
        for part in reversed(name.split('.')):
            owner = nn.ModuleList() if part == '0' else nn.Module()
            owner.add_module(part, made)
            made = owner
        return made

    data = _Images([dict(img_path='a')])
    check_classes(build(4), data, 'train_dataloader')
    said = rf'has 4 classes .one, two, three, \.\.\.., model.{name} has num_classes=7'
    with pytest.raises(UserError, match=said):
        check_classes(build(7), data, 'train_dataloader')
