"""The configs and the page for a user's own data, on the embedded data in their layouts."""

import json
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from in_process import load_script
from mmengine.config import Config
from own_data import CONFIGS, DATA, EDIT, ROOT, config_path, edited, first_block, make_digits

from mmvheat.models import VHeat

# Keys of the configs that make them small enough for a CPU; all others stay as they are.
SHRUNK = {
    'classification': {
        'model.head.in_channels': 64,
        'train_dataloader.batch_size': 10,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'val_dataloader.num_workers': 0,
        'val_dataloader.persistent_workers': False,
        'train_cfg.max_epochs': 1,
    },
    'detection': {
        'model.neck.in_channels': [8, 16, 32, 64],
        'model.neck.out_channels': 8,
        'model.rpn_head.in_channels': 8,
        'model.rpn_head.feat_channels': 8,
        'model.roi_head.bbox_roi_extractor.out_channels': 8,
        'model.roi_head.bbox_head.in_channels': 8,
        'model.roi_head.bbox_head.fc_out_channels': 16,
        'model.roi_head.mask_roi_extractor.out_channels': 8,
        'model.roi_head.mask_head.in_channels': 8,
        'model.roi_head.mask_head.conv_out_channels': 8,
        'model.test_cfg.rcnn.max_per_img': 5,
        'train_dataloader.dataset.pipeline.2.scale': (128, 128),
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'val_dataloader.dataset.pipeline.1.scale': (128, 128),
        'val_dataloader.num_workers': 0,
        'val_dataloader.persistent_workers': False,
        'train_cfg.max_epochs': 1,
    },
    'segmentation': {
        'model.data_preprocessor.size': (64, 64),
        'model.decode_head.in_channels': [8, 16, 32, 64],
        'model.decode_head.channels': 8,
        'model.auxiliary_head.in_channels': 32,
        'model.auxiliary_head.channels': 8,
        'model.test_cfg.crop_size': (64, 64),
        'model.test_cfg.stride': (42, 42),
        'train_dataloader.dataset.pipeline.2.scale': (256, 64),
        'train_dataloader.dataset.pipeline.3.crop_size': (64, 64),
        'train_dataloader.batch_size': 2,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'val_dataloader.dataset.pipeline.1.scale': (256, 64),
        'val_dataloader.num_workers': 0,
        'val_dataloader.persistent_workers': False,
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 2,
    },
}


ARCH = dict(depths=[1, 1, 1, 1], dims=8)


def write_shrunk(cfg: Config, library: str) -> None:
    """Write a config as ``shrunk.py``, small enough to train on a CPU."""
    cfg.merge_from_dict({'default_hooks.logger.interval': 1, **SHRUNK[library]})
    cfg.model.backbone.arch = ARCH
    cfg.test_dataloader = cfg.val_dataloader
    # Not cfg.dump, whose layout takes as long as the training.
    text = ''.join(f'{name} = {value!r}\n' for name, value in cfg.to_dict().items())
    Path('shrunk.py').write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize('library', CONFIGS)
def test_trains_and_tests(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_digits(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    cfg = Config.fromfile(config_path(library))
    cfg.model.backbone.init_cfg = None
    write_shrunk(cfg, library)
    load_script('tools/train.py').main(['shrunk.py', '--seed', '0', '--work-dir', 'trained'])
    (best,) = Path('trained').glob('best_*.pth')
    checkpoint = torch.load(best, map_location='cpu')
    assert list(checkpoint['meta']['dataset_meta']['classes']) == cfg.classes
    assert checkpoint['meta']['iter'] == 2
    # The rate is that of the full recipe times the share of its batch.
    log = next(Path('trained').glob('2*/*.log')).read_text()
    share = cfg.train_dataloader.batch_size / cfg.auto_scale_lr.base_batch_size
    assert f'Scaling the original LR by {share}' in log
    load_script('tools/test.py').main(['shrunk.py', str(best), '--work-dir', 'tested'])
    validated = json.loads(
        next(Path('trained').glob('2*/vis_data/scalars.json')).read_text().splitlines()[-1]
    )
    tested = json.loads(next(Path('tested').glob('2*/2*.json')).read_text())
    metrics = [name for name in tested if not name.endswith('time')]
    assert metrics
    for name in metrics:
        assert tested[name] == pytest.approx(validated[name], nan_ok=True)


@pytest.mark.parametrize('library', CONFIGS)
def test_fewer_classes_reach_every_head(library: str, tmp_path: Path) -> None:
    (tmp_path / 'mine.py').write_text(edited(library, classes=['cat'], pretrained=None))
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.model.backbone.init_cfg is None
    numbers = re.findall(r'num_classes=(\d+)', cfg.pretty_text)
    assert len(numbers) >= 2 and set(numbers) == {'1'}
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert 'cat' in str(loader.dataset) and "'9'" not in str(loader.dataset)
        assert loader.dataset.data_root.startswith('data/digits/')


@pytest.mark.parametrize('library', CONFIGS)
@pytest.mark.parametrize('length', [1, 12])
def test_schedule_lasts_to_the_end_of_any_length(library: str, length: int, tmp_path: Path) -> None:
    name = 'iterations' if library == 'segmentation' else 'epochs'
    length *= 1000 if library == 'segmentation' else 1
    (tmp_path / 'mine.py').write_text(edited(library, **{name: length}))
    first, last = Config.fromfile(tmp_path / 'mine.py').param_scheduler
    assert first.type == 'LinearLR' and first.end <= max(1, length // 2)
    assert last.end >= length and last.end > last.get('begin', 0)
    assert last.get('begin', 0) in (0, first.end)
    assert all(0 < milestone <= length for milestone in last.get('milestones', []))


PAGE = (ROOT / 'docs' / 'own_data.md').read_text()
BLOCKS = re.findall(r'^```(\w+)\n(.*?)^```', PAGE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line)
    for language, block in BLOCKS
    if language == 'bash'
    for line in block.replace('\\\n', ' ').splitlines()
]
OURS = [command for command in COMMANDS if command[0] in ('python', 'bash')]


def test_page_has_commands() -> None:
    tools = {Path(command[1]).name for command in OURS}
    assert tools >= {'train.py', 'test.py', 'check_data.py', 'demo_image.py', 'dist_train.sh'}


@pytest.mark.parametrize('command', OURS, ids=lambda command: ' '.join(command)[:60])
def test_commands_of_the_page_are_understood(command: list[str]) -> None:
    script = ROOT / command[1]
    assert script.is_file()
    configs = [ROOT / word for word in command if word.startswith('configs/')]
    assert all(config.is_file() for config in configs)
    if script.suffix == '.py' and script.parent.name == 'tools':
        args = load_script(script).parse_args(command[2:])
        options = getattr(args, 'cfg_options', None) or {}
        settings = Config.fromfile(configs[0]) if options else {}
        for name in options:
            *parents, last = name.split('.')
            node = settings
            for parent in parents:
                node = node[parent]
            # indices is an argument of every dataset, which no config sets.
            assert last in node or last == 'indices'


def test_block_of_the_page_is_the_one_to_edit(tmp_path: Path) -> None:
    block, _, inferencers = [text for language, text in BLOCKS if language == 'python']
    compile(inferencers, 'own_data.md', 'exec')
    example: dict = {}
    exec(block, example)
    names = re.findall(r'^(\w+) = ', block, flags=re.MULTILINE)
    assert names == re.findall(r'^(\w+) = ', first_block('detection'), flags=re.MULTILINE)
    text = edited('detection', **{name: example[name] for name in names})
    # Comments included, the page shows what the copied file then looks like.
    assert block.removeprefix(EDIT).strip() in text.replace('"', "'")
    (tmp_path / 'pets.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'pets.py')
    assert cfg.model.roi_head.mask_head.num_classes == 2
    assert cfg.val_evaluator.ann_file == 'data/pets/val.json'


MEAN, STD = [123.675, 116.28, 103.53, 116.28], [58.395, 57.12, 57.375, 57.12]


def take_four_channels(library: str, cfg: Config) -> None:
    """What the page says of two libraries; it spells the change of the segmentor itself."""
    pipelines = [cfg[name].dataset.pipeline for name in ('train_dataloader', 'val_dataloader')]
    for pipeline in pipelines:
        pipeline[0].color_type = 'unchanged'
        if library == 'detection':
            pipeline.insert(1, dict(type='Normalize', mean=MEAN, std=STD, to_rgb=False))
        else:
            pipeline[1].backend = 'cv2'
    cfg.model.backbone.in_channels = 4
    if library == 'detection':
        cfg.model.data_preprocessor.update(mean=None, std=None, bgr_to_rgb=False)
    else:
        cfg.data_preprocessor.update(mean=MEAN, std=STD)
        kinds = ('RandAugment', 'RandomErasing')
        pipelines[0][:] = [step for step in pipelines[0] if step.type not in kinds]


@pytest.mark.slow
@pytest.mark.parametrize('library', CONFIGS)
def test_images_of_four_channels(library, tmp_path, monkeypatch):
    """Trained from weights for three, and validated, in each library as the page says."""
    make_digits(tmp_path)
    for path in (tmp_path / DATA).rglob('*.png'):
        if 'masks' not in path.parts:
            image = cv2.imread(str(path))
            cv2.imwrite(str(path), np.dstack([image, 255 - image[..., :1]]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    weights = VHeat(ARCH, img_size=32).state_dict()
    torch.save({f'backbone.{name}': tensor for name, tensor in weights.items()}, 'rgb.pth')
    text = edited(library, pretrained='rgb.pth')
    if library == 'segmentation':
        _, lines, _ = [text for language, text in BLOCKS if language == 'python']
        assert lines.count("'tifffile'") == 1
        text += lines.replace("'tifffile'", "'cv2'")
    Path('mine.py').write_text(text)
    cfg = Config.fromfile('mine.py')
    if library != 'segmentation':
        take_four_channels(library, cfg)
    shrunk = dict(SHRUNK[library])
    if library == 'detection':  # The steps behind Normalize have moved.
        for split, step in (('train', 2), ('val', 1)):
            key = f'{split}_dataloader.dataset.pipeline.{{}}.scale'
            shrunk[key.format(step + 1)] = shrunk.pop(key.format(step))
    monkeypatch.setitem(SHRUNK, library, shrunk)
    write_shrunk(cfg, library)
    load_script('tools/train.py').main(['shrunk.py', '--seed', '0', '--work-dir', 'trained'])
    (best,) = Path('trained').glob('best_*.pth')
    state = torch.load(best, map_location='cpu')['state_dict']
    assert state['backbone.patch_embed.conv1.weight'].shape[1] == 4
    log = next(Path('trained').glob('2*/*.log')).read_text()
    assert log.count('patch_embed.conv1.weight adapted from 3 to 4 input channels') == 1
