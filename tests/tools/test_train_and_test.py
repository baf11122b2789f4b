"""Each library trained, resumed and tested with two processes, and tested with one."""

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

import cv2
import numpy as np
import pytest
import torch
from pycocotools.mask import decode

from mmvheat.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow
CONFIGS = Path(__file__).parent / 'configs'
VAL_IMAGES = 5


@dataclass
class Case:
    """How a library trains in this test, and what it saves half-way and at the end."""

    half: str
    end: str
    options: list[str]
    flags: list[str] = field(default_factory=list)


CASES = {
    'classification': Case(
        'epoch_1.pth',
        'epoch_2.pth',
        ['train_cfg.max_epochs=2', 'default_hooks.checkpoint.max_keep_ckpts=2'],
    ),
    'detection': Case(
        'epoch_1.pth', 'epoch_2.pth', ['train_cfg.max_epochs=2'], ['--auto-scale-lr']
    ),
    'segmentation': Case(
        'iter_2.pth', 'iter_4.pth', ['train_cfg.max_iters=4', 'default_hooks.checkpoint.interval=2']
    ),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # mmengine collects the results of several processes in ./.dist_test.
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope='module')
def train(run: Callable[..., str]) -> Callable[..., str]:
    """Train a library's config in two processes and return the log."""

    def train(library: str, work_dir: Path, *more: object) -> str:
        case = CASES[library]
        flags = [*case.flags, '--amp', '--seed', 0, '--work-dir', work_dir]
        options = ['--cfg-options', *case.options, *more]
        return run('dist_train.sh', CONFIGS / f'{library}.py', 2, *flags, *options)

    return train


@pytest.fixture(scope='module')
def trained(
    train: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, str]]:
    """Train each library's config once, and return the last checkpoint and the log."""
    root = tmp_path_factory.mktemp('trained')
    logs: dict[str, str] = {}

    def trained(library: str) -> tuple[Path, str]:
        if library not in logs:
            logs[library] = train(library, root / library)
        return root / library / CASES[library].end, logs[library]

    return trained


@pytest.fixture
def evaluate(
    trained: Callable, start: Callable[..., Popen], run: Callable[..., str], tmp_path: Path
) -> Callable[..., dict[str, float]]:
    """Test a library's checkpoint with one process and with two, and return the metrics."""

    def evaluate(library: str, one: str, two: str, *flags: str, draw: bool = True) -> dict:
        config, checkpoint = CONFIGS / f'{library}.py', trained(library)[0]
        results = {out: [*flags, '--out', out, '--work-dir', f'{out}.dir'] for out in (one, two)}
        drawn = ['--show-dir', f'{one}.drawn'] if draw else []
        process = start('test.py', config, checkpoint, *results[one], *drawn)
        run('dist_test.sh', config, checkpoint, 2, *results[two])
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-3000:]
        if draw:
            pictures = [cv2.imread(str(path)) for path in Path(drawn[1]).rglob('*.png')]
            assert sum(picture.std() > 0 for picture in pictures) == VAL_IMAGES
        found, expected = _metrics(f'{one}.dir'), _metrics(f'{two}.dir')
        # A pixel or a box at a threshold may fall on the other side of it.
        assert found == pytest.approx(expected, abs=1e-3)
        return found

    return evaluate


def _metrics(work_dir: str) -> dict[str, float]:
    (file,) = Path(work_dir).glob('2*/2*.json')
    found = json.loads(file.read_text())
    return {name: value for name, value in found.items() if not name.endswith('time')}


def _load(file: str) -> list[dict]:
    """Load predictions, one an image, in the order of the images."""
    predictions = pickle.loads(Path(file).read_bytes())
    assert len(predictions) == VAL_IMAGES
    assert len({sample['img_path'] for sample in predictions}) == VAL_IMAGES
    return sorted(predictions, key=lambda sample: sample['img_path'])


def _overlap(left: list[dict], right: list[dict]) -> float:
    """Least intersection over union of pairs of run-length-encoded masks; of empty ones 1."""
    pairs = [np.stack([decode(one), decode(two)]) for one, two in zip(left, right, strict=True)]
    return min(pair.all(0).sum() / max(1, pair.any(0).sum()) if pair.any() else 1 for pair in pairs)


def _largest_difference(left: str, right: str) -> float:
    pairs = zip(_load(left), _load(right), strict=True)
    return max((one['pred_score'] - two['pred_score']).abs().max().item() for one, two in pairs)


@pytest.mark.parametrize('library', CASES)
def test_resumed_in_two_processes_equals_uninterrupted(
    library: str, trained: Callable, train: Callable[..., str], tmp_path: Path
) -> None:
    checkpoint, log = trained(library)
    if library == 'detection':
        # Two processes of two images: half of auto_scale_lr.base_batch_size.
        assert 'lr: 5.0000e-04' in log
    # Where data is loaded does not matter; segmentation was trained with a worker process.
    half = checkpoint.with_name(CASES[library].half)
    log = train(library, tmp_path, 'train_dataloader.num_workers=0', '--resume', half)
    assert 'resumed epoch' in log
    expected, found = read_checkpoint(checkpoint), read_checkpoint(tmp_path / checkpoint.name)
    assert not (tmp_path / half.name).exists()
    assert found['meta']['iter'] == expected['meta']['iter']
    assert found['state_dict'].keys() == expected['state_dict'].keys()
    for name, tensor in expected['state_dict'].items():
        assert torch.equal(found['state_dict'][name], tensor), name


def test_classification(evaluate: Callable) -> None:
    assert 'accuracy/top1' in evaluate('classification', '1.pkl', '2.pkl')
    evaluate('classification', 'tta1.pkl', 'tta2.pkl', '--tta', draw=False)
    assert _largest_difference('1.pkl', '2.pkl') < 1e-6
    assert _largest_difference('tta1.pkl', 'tta2.pkl') < 1e-6
    assert 1e-6 < _largest_difference('1.pkl', 'tta1.pkl') < 0.5


@pytest.mark.parametrize('tta', [[], ['--tta']], ids=['plain', 'tta'])
def test_detection(tta: list[str], evaluate: Callable) -> None:
    found = evaluate('detection', '1.pkl', '2.pkl', *tta)
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} < set(found)
    for left, right in zip(_load('1.pkl'), _load('2.pkl'), strict=True):
        left, right = left['pred_instances'], right['pred_instances']
        assert len(left['scores']) > 0
        torch.testing.assert_close(left['bboxes'], right['bboxes'])
        torch.testing.assert_close(left['scores'], right['scores'])
        assert _overlap(left['masks'], right['masks']) > 0.99


@pytest.mark.parametrize('tta', [[], ['--tta']], ids=['plain', 'tta'])
def test_segmentation(tta: list[str], evaluate: Callable) -> None:
    assert evaluate('segmentation', 'maps', '2.pkl', *tta)['aAcc'] > 0
    for sample in _load('2.pkl'):
        png = cv2.imread(str(Path('maps', Path(sample['img_path']).name)), 0)
        assert png.shape == sample['pred_sem_seg'].shape
        assert (png == sample['pred_sem_seg']).mean() > 0.999


@pytest.mark.parametrize('library', CASES)
def test_compiled_testing_equals_plain(
    library: str, trained: Callable, run: Callable[..., str]
) -> None:
    given = CONFIGS / f'{library}.py', trained(library)[0]
    run('test.py', *given, '--work-dir', 'plain')
    log = run('test.py', *given, '--work-dir', 'compiled', '--compile', 'aot_eager')
    assert 'Compile the backbone with aot_eager' in log
    assert _metrics('compiled') == pytest.approx(_metrics('plain'), abs=1e-3)


def test_compiled_training_in_two_processes(
    train: Callable[..., str], trained: Callable, tmp_path: Path
) -> None:
    checkpoint, _ = trained('classification')
    log = train('classification', tmp_path, '--compile', 'aot_eager')
    assert 'Compile the backbone with aot_eager' in log
    compiled = read_checkpoint(tmp_path / checkpoint.name)['state_dict']
    plain = read_checkpoint(checkpoint)['state_dict']
    assert compiled.keys() == plain.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, atol=1e-2, rtol=0, msg=name)


def test_a_mistake_seen_by_all_processes_is_one_line(
    trained: Callable, start: Callable[..., Popen], tmp_path: Path
) -> None:
    checkpoint, _ = trained('classification')
    config = CONFIGS / 'segmentation.py'
    process = start('dist_test.sh', config, checkpoint, 2, '--work-dir', tmp_path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    (line,) = [line for line in errors.splitlines() if 'warn' not in line.lower()]
    assert line.startswith(f'error: {checkpoint} does not fit the config: ')
    assert 'missing (decode_head.' in line and 'unexpected (head.fc.weight, head.fc.bias)' in line
