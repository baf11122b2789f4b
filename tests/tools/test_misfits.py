"""Data that are not there and weights of another model: one line that names both sides."""

import json
from pathlib import Path

import pytest
import torch
from in_process import last_log
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from shrunken import shrink

pytest.importorskip('mmcv')
ROOT = Path(__file__).parents[2]
CONFIGS = {
    'classification': 'classification/vheat-tiny_16xb128_in1k.py',
    'detection': 'detection/mask-rcnn_vheat-t_fpn_1x_coco.py',
    'segmentation': 'segmentation/vheat-t_upernet_8xb2-160k_ade20k-512x512.py',
}
LARGER = dict(depths=[1, 1, 2, 1], dims=[8, 16, 32, 64])


@pytest.fixture(scope='module')
def configs(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shrunken configs, and data that are wrong in each way."""
    folder = tmp_path_factory.mktemp('misfits')
    for name, path in CONFIGS.items():
        shrink(ROOT / 'configs' / path, tiny_data).dump(folder / f'{name}.py')
    for name in ('empty', *(f'hollow/{label}' for label in 'abc')):
        (folder / name).mkdir(parents=True)
    content = json.loads((tiny_data / 'train.json').read_text())
    (folder / 'blank.json').write_text(json.dumps(dict(content, images=[], annotations=[])))
    (folder / 'bare.json').write_text(json.dumps(dict(content, annotations=[])))
    return folder


def save_model(configs: Path, library: str, path: Path, **changes: object) -> None:
    """Save a checkpoint of a shrunken config's model after some changes to it."""
    cfg = Config.fromfile(configs / f'{library}.py')
    cfg.merge_from_dict(changes)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, path)


@pytest.mark.parametrize(
    ('library', 'option', 'said'),
    [
        ('classification', 'data_root=/nowhere', '/nowhere/classes/train does not exist'),
        ('classification', 'data_prefix=gone', 'gone does not exist: check the paths'),
        ('classification', 'data_prefix={}/empty', 'subfolders (0)'),
        ('classification', 'data_prefix={}/hollow', 'Found 0 files'),
        ('detection', 'data_root=/nowhere', '/nowhere/train.json does not exist'),
        ('detection', 'data_prefix.img=gone', 'looks for img_path'),
        ('detection', 'ann_file={}/blank.json', 'CocoDataset found no samples'),
        ('detection', 'ann_file={}/bare.json', 'bare.json'),
        ('segmentation', 'data_root=/nowhere', '/nowhere/scenes/train does not exist'),
        ('segmentation', 'data_prefix.img_path={}/empty', 'found no samples'),
        ('segmentation', 'data_prefix.seg_map_path=gone', 'looks for seg_map_path'),
        ('segmentation', 'img_suffix=.jpg', 'found no samples'),
    ],
)
def test_data_that_are_not_there(library, option, said, configs, tool):
    option = f'train_dataloader.dataset.{option.format(configs)}'
    status, error = tool('train', str(configs / f'{library}.py'), '--cfg-options', option)
    assert status == 2
    assert error.startswith('error: train_dataloader: ') and error.count('\n') == 0, error
    assert said in error


@pytest.mark.parametrize(
    ('library', 'option', 'classes'),
    [
        ('classification', 'model.head.num_classes', 3),
        ('detection', 'model.roi_head.bbox_head.num_classes', 2),
        ('segmentation', 'model.decode_head.num_classes', 2),
    ],
)
@pytest.mark.parametrize('name', ['train', 'test'])
def test_classes_of_the_data_and_of_the_head(name, library, option, classes, configs, tool):
    config = str(configs / f'{library}.py')
    save_model(configs, library, Path('weights.pth'), **{option: 7})
    weights = ['weights.pth'] if name == 'test' else []
    status, error = tool(name, config, *weights, '--cfg-options', f'{option}=7')
    assert status == 2
    assert f'{name}_dataloader has {classes} classes' in error and 'num_classes=7' in error
    assert error.count('\n') == 0


@pytest.mark.parametrize('library', CONFIGS)
def test_a_checkpoint_of_another_arch(library, configs, tool):
    save_model(configs, library, Path('other.pth'), **{'model.backbone.arch': LARGER})
    config, sides = str(configs / f'{library}.py'), ('depths 1, 1, 2, 1', 'depths 1, 1, 1, 1')
    cfg = Config.fromfile(config)
    cfg.model.backbone.init_cfg = dict(
        type='Pretrained', checkpoint='other.pth', prefix='backbone.'
    )
    cfg.dump('pretrained.py')
    for name, *arguments in (
        ('test', config, 'other.pth'),
        ('train', config, '--cfg-options', 'load_from=other.pth'),
        ('train', 'pretrained.py'),
    ):
        status, error = tool(name, *arguments)
        assert status == 2
        assert error.startswith('error: ') and error.count('\n') == 0
        assert all(side in error for side in sides), error
        assert 'other.pth' in error and 'layers.2.1.' in error


@pytest.mark.parametrize(
    ('library', 'option'),
    [
        ('classification', 'model.head.num_classes'),
        ('detection', 'model.roi_head.bbox_head.num_classes'),
        ('segmentation', 'model.decode_head.num_classes'),
    ],
)
def test_a_checkpoint_of_other_classes(library, option, configs, tool):
    save_model(configs, library, Path('other.pth'), **{option: 7})
    config = str(configs / f'{library}.py')
    classes = 3 if library == 'classification' else 2
    sides = f'the checkpoint has 7 classes, the config {classes}'
    status, error = tool('test', config, 'other.pth')
    assert status == 2 and sides in error and error.count('\n') == 0
    # To train on other classes is what a checkpoint is taken for: it is said, and goes on.
    status, error = tool('train', config, '--cfg-options', 'load_from=other.pth')
    assert (status, error) == (0, '')
    (line,) = [line for line in last_log(f'work_dirs/{library}').splitlines() if sides in line]
    assert 'WARNING' in line and 'start' in line and 'of another shape' in line
