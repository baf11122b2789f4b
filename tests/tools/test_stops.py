"""A training that cannot go on ends with one line that says why, and status 2."""

from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest
from ranks import run_scripts_in_ranks
from shrunken import shrink

ROOT = Path(__file__).parents[2]
CONFIGS = Path(__file__).parent / 'configs'


def _last_words(process: Popen) -> str:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2, errors[-3000:]
    lines = [line for line in errors.splitlines() if 'Warning' not in line]
    lines = [line for line in lines if line.startswith(('error', 'Traceback', '['))]
    assert len(lines) == 1, errors[-3000:]
    return lines[0]


@pytest.mark.parametrize('library', ['classification', 'detection', 'segmentation'])
def test_images_that_are_not_finite(library: str, tool: Callable) -> None:
    options = ['--cfg-options', 'model.data_preprocessor.std=[0,0,0]']
    status, line = tool('train', CONFIGS / f'{library}.py', '--work-dir', 'work', *options)
    assert status == 2 and '\n' not in line
    assert line.startswith('error: training stops at iteration 1')
    assert '2 of the 2 images of a batch hold NaN or inf' in line
    assert not list(Path('work').glob('*.pth'))


@pytest.mark.slow
def test_a_loss_of_two_processes_that_is_not_finite(
    start: Callable[..., Popen], tmp_path: Path
) -> None:
    """The first epoch is good, then the learning rate leaps."""
    config = tmp_path / 'config.py'
    config.write_text(
        f'_base_ = {str(CONFIGS / "classification.py")!r}\n'
        "param_scheduler = dict(_delete_=True, type='ConstantLR', factor=1e-30, end=2)\n"
    )
    options = ['--cfg-options', 'optim_wrapper.optimizer.lr=1e27']
    process = start('dist_train.sh', config, 2, '--work-dir', tmp_path, *options)
    line = _last_words(process)
    assert line.startswith('error: training stops at iteration ')
    assert '(epoch 2): loss is ' in line or '(epoch 2): the weights hold NaN' in line
    assert [path.name for path in tmp_path.glob('*.pth*')] == ['epoch_1.pth']


@pytest.mark.slow
def test_a_map_that_no_head_uses(tiny_data: Path, tmp_path: Path) -> None:
    """RetinaNet begins at the second map. Our config leaves the first out; others may not."""
    cfg = shrink(ROOT / 'configs/detection/retinanet_vheat-t_fpn_1x_coco.py', tiny_data)
    cfg.train_cfg.max_epochs = 2
    cfg.model.backbone.out_indices = (0, 1, 2, 3)
    cfg.model.neck.update(in_channels=[8, *cfg.model.neck.in_channels], start_level=1)
    cfg.dump(tmp_path / 'retinanet.py')
    train = ('tools/train.py', 'retinanet.py', '--work-dir')
    found = ('--cfg-options', 'find_unused_parameters=True')
    for stopped, (status, errors) in run_scripts_in_ranks(
        tmp_path, (*train, 'stopped'), (*train, 'work', *found)
    ):
        assert stopped[0] == 2
        (line,) = [line for line in stopped[1].splitlines() if line.startswith('error')]
        names = 'backbone.outnorm0.weight, backbone.outnorm0.bias'
        assert line.startswith(f'error: {names} got no gradient in the first iteration')
        assert 'out_indices=(1, 2, 3) with start_level=0' in line
        assert 'find_unused_parameters=True' in line
        assert status == 0, errors
