"""Each library trained, resumed and tested with two processes, and tested with one.

The two processes run one command line after the other, so that they import a library once.
"""

import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from subprocess import Popen

import cv2
import numpy as np
import pytest
import torch
from in_process import last_log, last_metrics
from pycocotools.mask import decode
from ranks import run_scripts_in_ranks

from mmvheat.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow
CONFIGS = Path(__file__).parent / 'configs'
VAL_IMAGES = 5

# How each library trains here: its checkpoints half-way and at the end, and its options.
CASES = {
    'classification': (
        'epoch_1.pth',
        'epoch_2.pth',
        ['--cfg-options', 'train_cfg.max_epochs=2', 'default_hooks.checkpoint.max_keep_ckpts=2'],
    ),
    'detection': (
        'epoch_1.pth',
        'epoch_2.pth',
        ['--auto-scale-lr', '--cfg-options', 'train_cfg.max_epochs=2'],
    ),
    'segmentation': (
        'iter_2.pth',
        'iter_4.pth',
        ['--cfg-options', 'train_cfg.max_iters=4', 'default_hooks.checkpoint.interval=2'],
    ),
}


@pytest.fixture(scope='module')
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Train, resume and test a library in two processes, once; return the folder with it all."""

    @cache
    def trained(library: str) -> Path:
        folder = tmp_path_factory.mktemp(library)
        config = CONFIGS / f'{library}.py'
        half, end, options = CASES[library]

        def train(work_dir: str, *flags: object, more: tuple[str, ...] = ()) -> tuple:
            flags = ('--amp', '--seed', 0, '--work-dir', work_dir, *flags)
            return ('tools/train.py', config, *flags, *options, *more)

        commands = [
            train('whole'),
            # Where data is loaded does not matter; segmentation is trained with a worker process.
            train('resumed', '--resume', f'whole/{half}', more=('train_dataloader.num_workers=0',)),
        ]
        for name, *flags in (('two',), ('two-tta', '--tta')):
            given = (config, f'whole/{end}', '--out', f'{name}.pkl', '--work-dir', name)
            commands.append(('tools/test.py', *given, *flags))
        if library == 'classification':
            commands.append(train('compiled', '--compile', 'aot_eager'))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv('TINY_DATA', str(tiny_data))
            for rank in run_scripts_in_ranks(folder, *commands):
                assert [status for status, _ in rank] == [0] * len(commands), rank
        return folder

    return trained


@pytest.fixture
def evaluate(trained: Callable, tool: Callable) -> Callable[..., dict[str, float]]:
    """Test a library's checkpoint with one process, as two have done, and return the metrics."""

    def evaluate(library: str, out: str, *flags: str, draw: bool = True) -> dict:
        folder = trained(library)
        name = 'one-tta' if '--tta' in flags else 'one'
        given = [CONFIGS / f'{library}.py', folder / 'whole' / CASES[library][1]]
        drawn = ['--show-dir', f'{name}.drawn'] if draw else []
        options = ['--out', out, '--work-dir', name, *flags, *drawn]
        assert tool('test', *given, *options) == (0, '')
        if draw:
            pictures = [cv2.imread(str(path)) for path in Path(drawn[1]).rglob('*.png')]
            assert sum(picture.std() > 0 for picture in pictures) == VAL_IMAGES
        found, expected = last_metrics(name), last_metrics(folder / name.replace('one', 'two'))
        # A pixel or a box at a threshold may fall on the other side of it.
        assert found == pytest.approx(expected, abs=1e-3)
        return found

    return evaluate


def _load(file: str | Path) -> list[dict]:
    """Load predictions, one an image, in the order of the images."""
    predictions = pickle.loads(Path(file).read_bytes())
    assert len(predictions) == VAL_IMAGES
    assert len({sample['img_path'] for sample in predictions}) == VAL_IMAGES
    return sorted(predictions, key=lambda sample: sample['img_path'])


def _overlap(left: list[dict], right: list[dict]) -> float:
    """Least intersection over union of pairs of run-length-encoded masks; of empty ones 1."""
    pairs = [np.stack([decode(one), decode(two)]) for one, two in zip(left, right, strict=True)]
    return min(pair.all(0).sum() / max(1, pair.any(0).sum()) if pair.any() else 1 for pair in pairs)


def _largest_difference(left: str | Path, right: str | Path) -> float:
    pairs = zip(_load(left), _load(right), strict=True)
    return max((one['pred_score'] - two['pred_score']).abs().max().item() for one, two in pairs)


@pytest.mark.parametrize('library', CASES)
def test_resumed_in_two_processes_equals_uninterrupted(library: str, trained: Callable) -> None:
    folder = trained(library)
    half, end, _ = CASES[library]
    if library == 'detection':
        # Two processes of two images: half of auto_scale_lr.base_batch_size.
        assert 'lr: 5.0000e-04' in last_log(folder / 'whole')
    assert 'resumed epoch' in last_log(folder / 'resumed')
    assert not (folder / 'resumed' / half).exists()
    expected, found = (read_checkpoint(folder / name / end) for name in ('whole', 'resumed'))
    assert found['meta']['iter'] == expected['meta']['iter']
    assert found['state_dict'].keys() == expected['state_dict'].keys()
    for name, tensor in expected['state_dict'].items():
        assert torch.equal(found['state_dict'][name], tensor), name


def test_classification(evaluate: Callable, trained: Callable) -> None:
    folder = trained('classification')
    assert 'accuracy/top1' in evaluate('classification', '1.pkl')
    evaluate('classification', 'tta1.pkl', '--tta', draw=False)
    assert _largest_difference('1.pkl', folder / 'two.pkl') < 1e-6
    assert _largest_difference('tta1.pkl', folder / 'two-tta.pkl') < 1e-6
    assert 1e-6 < _largest_difference('1.pkl', 'tta1.pkl') < 0.5


@pytest.mark.parametrize('tta', [[], ['--tta']], ids=['plain', 'tta'])
def test_detection(tta: list[str], evaluate: Callable, trained: Callable) -> None:
    found = evaluate('detection', '1.pkl', *tta)
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} < set(found)
    two = trained('detection') / ('two-tta.pkl' if tta else 'two.pkl')
    for left, right in zip(_load('1.pkl'), _load(two), strict=True):
        left, right = left['pred_instances'], right['pred_instances']
        assert len(left['scores']) > 0
        torch.testing.assert_close(left['bboxes'], right['bboxes'])
        torch.testing.assert_close(left['scores'], right['scores'])
        assert _overlap(left['masks'], right['masks']) > 0.99


@pytest.mark.parametrize('tta', [[], ['--tta']], ids=['plain', 'tta'])
def test_segmentation(tta: list[str], evaluate: Callable, trained: Callable) -> None:
    assert evaluate('segmentation', 'maps', *tta)['aAcc'] > 0
    for sample in _load(trained('segmentation') / ('two-tta.pkl' if tta else 'two.pkl')):
        png = cv2.imread(str(Path('maps', Path(sample['img_path']).name)), 0)
        assert png.shape == sample['pred_sem_seg'].shape
        assert (png == sample['pred_sem_seg']).mean() > 0.999


@pytest.mark.parametrize('library', CASES)
def test_compiled_testing_equals_plain(library: str, trained: Callable, tool: Callable) -> None:
    folder = trained(library)
    given = [CONFIGS / f'{library}.py', folder / 'whole' / CASES[library][1]]
    assert tool('test', *given, '--work-dir', 'compiled', '--compile', 'aot_eager') == (0, '')
    assert 'Compile the backbone with aot_eager' in last_log('compiled')
    assert last_metrics('compiled') == pytest.approx(last_metrics(folder / 'two'), abs=1e-3)


def test_compiled_training_in_two_processes(trained: Callable) -> None:
    folder = trained('classification')
    assert 'Compile the backbone with aot_eager' in last_log(folder / 'compiled')
    compiled, plain = (
        read_checkpoint(folder / name / 'epoch_2.pth')['state_dict']
        for name in ('compiled', 'whole')
    )
    assert compiled.keys() == plain.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, atol=1e-2, rtol=0, msg=name)


def test_the_script_for_several_processes(trained: Callable, run: Callable, tmp_path: Path) -> None:
    folder = trained('classification')
    given = [CONFIGS / 'classification.py', folder / 'whole' / 'epoch_2.pth', 2]
    run('dist_test.sh', *given, '--out', tmp_path / 'out.pkl', '--work-dir', tmp_path / 'tested')
    assert _largest_difference(tmp_path / 'out.pkl', folder / 'two.pkl') < 1e-6
    assert last_metrics(tmp_path / 'tested') == last_metrics(folder / 'two')


def test_a_mistake_seen_by_all_processes_is_one_line(
    trained: Callable, start: Callable[..., Popen], tmp_path: Path
) -> None:
    checkpoint = trained('classification') / 'whole' / 'epoch_2.pth'
    config = CONFIGS / 'segmentation.py'
    process = start('dist_test.sh', config, checkpoint, 2, '--work-dir', tmp_path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    # mmengine asks a shell for the version of gcc, which need not be there.
    said = [line for line in errors.splitlines() if 'gcc: not found' not in line]
    # Below each warning stands the line of code that gave it, indented.
    (line,) = [line for line in said if 'warn' not in line.lower() and not line.startswith(' ')]
    assert line.startswith(f'error: {checkpoint} does not fit the config: ')
    assert 'missing (decode_head.' in line and 'unexpected (head.fc.weight, head.fc.bias)' in line
