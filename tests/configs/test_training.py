"""A shrunken copy of every config trains, is resumed and tests through the tools."""

import json
import math
import os
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from in_process import plain_layout, run_script
from mmengine.config import Config
from shrunken import shrink

from mmvheat.models import VHeat

pytest.importorskip('mmcv')

ROOT = Path(__file__).parents[2]
# A scaled-out training needs several processes: tests/tools/test_scale_out.py. Shrunken, the demo's
# short configs are its full ones: tests/tools/test_demo.py. The study, which has other data,
# trains tiny runs of its own: tests/tools/studies.
FILES = [
    path
    for path in sorted((ROOT / 'configs').glob('*/*.py'))
    if path.parent.name not in ('_base_', 'scale_out', 'study')
    and not re.search('-(700|300)i_', path.stem)
]


FULL = os.environ.get('MMVHEAT_FULL') == '1'
# Shrunken, these are the small sibling with another block; they train alone unless FULL.
LARGER = {path.stem for path in FILES if re.search('-(s|b|small|base)_', path.stem)}
# Of each library, the demo's config is not slow.
CASES = [
    pytest.param(path, marks=[] if path.parent.name == 'demo' else pytest.mark.slow)
    for path in FILES
]


@pytest.fixture(autouse=True)
def _plain_layout():
    with plain_layout():
        yield


def _run(tool: str, *arguments: object) -> None:
    assert run_script(f'tools/{tool}.py', *arguments) == 0


def _losses(checkpoint: dict) -> list[float]:
    """What each iteration so far had, from the log that a checkpoint carries."""
    values, counts = checkpoint['message_hub']['log_scalars']['train/loss'].data
    return [float(value) for value in values / counts]


@pytest.mark.parametrize('path', CASES, ids=lambda path: path.stem)
def test_trains_resumes_and_tests(path, tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    cfg = shrink(path, tiny_data)
    by_epoch = 'max_epochs' in cfg.train_cfg
    unit, length = ('epoch', 1) if by_epoch else ('iter', 2)
    # mmengine tells runs of one second apart by their configs' names.
    cfg.dump(config := f'{path.stem}.py')

    _run('train', config, '--work-dir', 'first', '--seed', '0')
    checkpoint = Path(f'first/{unit}_{length}.pth')
    first = torch.load(checkpoint, map_location='cpu')
    assert first['meta']['iter'] == len(_losses(first)) == 2

    if path.stem in LARGER and not FULL:
        return

    more = f'train_cfg.max_{unit}s={length + 1}'
    _run(*('train', config, '--work-dir', 'second'), '--resume', checkpoint, '--cfg-options', more)
    checkpoint = Path(f'second/{unit}_{length + 1}.pth')
    second = torch.load(checkpoint, map_location='cpu')
    losses = _losses(second)
    assert second['meta']['iter'] == len(losses) == (4 if by_epoch else 3)
    assert losses[:2] == _losses(first) and all(map(math.isfinite, losses))
    before, after = first['state_dict'], second['state_dict']
    assert set(before) == set(after)
    for name, weight in after.items():
        assert torch.isfinite(weight.float()).all(), name
    stem = 'backbone.patch_embed.conv1.weight'
    assert not torch.equal(before[stem], after[stem])

    for folder, options in (('tested', []), ('augmented', ['--tta'])):
        _run('test', config, checkpoint, '--work-dir', folder, *options)
        (written,) = Path(folder).glob('2*/2*.json')
        metrics = json.loads(written.read_text())
        assert any(name for name in metrics if not name.endswith('time')), metrics


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'library', 'swin'),
    [
        (
            'detection/mask-rcnn_vheat-s_fpn_1x_coco.py',
            'mmdet',
            'mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
        ),
        (
            'segmentation/vheat-t_upernet_8xb2-160k_ade20k-512x512.py',
            'mmseg',
            'swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
        ),
    ],
    ids=['MMDET_VHEAT', 'MMSEG_VHEAT'],
)
def test_the_published_backbones_train_from_published_files(
    config, library, swin, tiny_data, tmp_path, monkeypatch
):
    """Their configs inherit a Swin Transformer's, and ``pretrained`` names a classifier's file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    cfg = shrink(ROOT / 'configs' / config, tiny_data)
    arch = cfg.model.backbone.arch
    weights = VHeat(dict(arch), img_size=64, out_indices=(3,)).state_dict()
    published = {name: weight for name, weight in weights.items() if 'outnorm' not in name}
    norm = {f'classifier.0.{part}': weights[f'outnorm3.{part}'] for part in ('weight', 'bias')}
    fc = {'classifier.3.weight': torch.zeros(5, 64), 'classifier.3.bias': torch.zeros(5)}
    torch.save({'model': {**published, **norm, **fc}}, 'published.pth')
    folder = Path(find_spec(library).submodule_search_locations[0]) / '.mim' / 'configs' / 'swin'
    cfg.model.backbone = dict(
        Config.fromfile(folder / swin).model.backbone,
        type='MMDET_VHEAT' if library == 'mmdet' else 'MMSEG_VHEAT',
        depths=arch['depths'],
        dims=arch['dims'],
        post_norm=arch['post_norm'],
        layer_scale=arch['layer_scale_init_value'],
        img_size=64,
        pretrained='published.pth',
    )
    # So the weights after training are those it started from.
    cfg.optim_wrapper.optimizer.lr = 0.0
    cfg.dump('config.py')
    _run('train', 'config.py', '--work-dir', 'work', '--seed', '0')
    (checkpoint,) = Path('work').glob('*_[12].pth')
    trained = torch.load(checkpoint)['state_dict']
    for name, weight in published.items():
        assert torch.equal(trained[f'backbone.{name}'], weight), name
    _run('test', 'config.py', checkpoint, '--work-dir', 'tested', '--tta')
    assert len(list(Path('tested').glob('2*/2*.json'))) == 1
