"""The tools, for the three libraries, with one process and with two."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import cv2
import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow
CONFIGS = Path(__file__).parent / 'configs'
VAL_IMAGES = 5


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # mmengine collects the results of several processes in ./.dist_test.
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope='module')
def trained(
    start: Callable[..., Popen], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, str]]:
    """Train each library's config once, all with --amp, and return checkpoint and log."""
    root = tmp_path_factory.mktemp('trained')
    runs = {
        'classification': ('epoch_2.pth', ['train.py'], ['train_cfg.max_epochs=2']),
        'segmentation': ('iter_4.pth', ['train.py'], ['train_cfg.max_iters=4']),
        'detection': ('epoch_2.pth', ['dist_train.sh', 2], ['train_cfg.max_epochs=2']),
    }
    logs: dict[str, str] = {}

    def train(library: str) -> tuple[Path, str]:
        name, (tool, *processes), options = runs[library]
        if library not in logs:
            flags = ['--amp', '--seed', 0, '--work-dir', root / library, '--cfg-options', *options]
            if library == 'detection':
                flags.insert(0, '--auto-scale-lr')
            process = start(tool, CONFIGS / f'{library}.py', *processes, *flags)
            out, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors[-3000:]
            logs[library] = out + errors
        return root / library / name, logs[library]

    return train


def _metrics(work_dir: Path) -> dict[str, float]:
    (file,) = work_dir.glob('2*/2*.json')
    found = json.loads(file.read_text())
    return {name: value for name, value in found.items() if not name.endswith('time')}


def _load(file: Path) -> list[dict]:
    """Load predictions, one an image, in the order of the images."""
    predictions = pickle.loads(file.read_bytes())
    assert len(predictions) == VAL_IMAGES
    assert len({sample['img_path'] for sample in predictions}) == VAL_IMAGES
    return sorted(predictions, key=lambda sample: sample['img_path'])


def _count_pictures(folder: Path) -> int:
    return sum(cv2.imread(str(path)).std() > 0 for path in folder.rglob('*.png'))


def test_detection_in_two_processes_and_one(
    trained: Callable, run: Callable[..., str], tmp_path: Path
) -> None:
    checkpoint, log = trained('detection')
    # Two processes of two images: half of auto_scale_lr.base_batch_size.
    assert 'lr: 5.0000e-04' in log
    config, one, two = CONFIGS / 'detection.py', tmp_path / 'one', tmp_path / 'two'
    drawn = ['--show-dir', tmp_path / 'drawn']
    run('test.py', config, checkpoint, '--work-dir', one, '--out', tmp_path / '1.pkl', *drawn)
    run('dist_test.sh', config, checkpoint, 2, '--work-dir', two, '--out', tmp_path / '2.pkl')
    assert _metrics(one) == pytest.approx(_metrics(two))
    assert 'coco/segm_mAP' in _metrics(one)
    for left, right in zip(_load(tmp_path / '1.pkl'), _load(tmp_path / '2.pkl'), strict=True):
        left, right = left['pred_instances'], right['pred_instances']
        assert len(left['scores']) > 0
        torch.testing.assert_close(left['bboxes'], right['bboxes'])
        torch.testing.assert_close(left['scores'], right['scores'])
        assert left['masks'] == right['masks']
    assert _count_pictures(tmp_path / 'drawn') == VAL_IMAGES


def test_segmentation_in_two_processes_and_one(
    trained: Callable, run: Callable[..., str], tmp_path: Path
) -> None:
    checkpoint, _ = trained('segmentation')
    config, one, two = CONFIGS / 'segmentation.py', tmp_path / 'one', tmp_path / 'two'
    drawn = ['--show-dir', tmp_path / 'drawn']
    run('test.py', config, checkpoint, '--work-dir', one, '--out', tmp_path / 'maps', *drawn)
    run('dist_test.sh', config, checkpoint, 2, '--work-dir', two, '--out', tmp_path / '2.pkl')
    assert _metrics(one) == pytest.approx(_metrics(two))
    assert _metrics(one)['aAcc'] > 0
    for sample in _load(tmp_path / '2.pkl'):
        png = cv2.imread(str(tmp_path / 'maps' / Path(sample['img_path']).name), 0)
        np.testing.assert_array_equal(png, sample['pred_sem_seg'])
    assert _count_pictures(tmp_path / 'drawn') == VAL_IMAGES


def test_tta_flips_without_a_word_of_it_in_the_config(
    trained: Callable, start: Callable[..., Popen], run: Callable[..., str], tmp_path: Path
) -> None:
    config, checkpoint = CONFIGS / 'segmentation.py', trained('segmentation')[0]
    work_dir = tmp_path / 'segmentation'
    process = start('test.py', config, checkpoint, '--tta', '--work-dir', work_dir)
    config, checkpoint = CONFIGS / 'classification.py', trained('classification')[0]
    plain, flipped = tmp_path / 'plain.pkl', tmp_path / 'flipped.pkl'
    arguments = ['test.py', config, checkpoint, '--work-dir', tmp_path / 'classification', '--out']
    run(*arguments, flipped, '--tta')
    run(*arguments, plain, '--show-dir', tmp_path / 'drawn')
    differences = [
        (left['pred_score'] - right['pred_score']).abs().max().item()
        for left, right in zip(_load(plain), _load(flipped), strict=True)
    ]
    assert 0 < max(differences) < 0.5
    assert _count_pictures(tmp_path / 'drawn') == VAL_IMAGES
    assert process.wait(120) == 0
    assert _metrics(work_dir)['aAcc'] > 0


def test_a_mistake_seen_by_all_processes_is_one_line(
    trained: Callable, start: Callable[..., Popen], tmp_path: Path
) -> None:
    checkpoint, _ = trained('classification')
    config = CONFIGS / 'segmentation.py'
    process = start('dist_test.sh', config, checkpoint, 2, '--work-dir', tmp_path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert [line for line in errors.splitlines() if 'warn' not in line.lower()] == [
        f'error: {checkpoint} has no weights for decode_head of EncoderDecoder (it holds '
        'backbone.patch_embed.conv1.weight, backbone.patch_embed.conv1.bias, ...): '
        'give one that was trained with this config'
    ]
