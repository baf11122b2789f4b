"""A run killed at some moment and resumed ends like an uninterrupted one."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import Popen

import pytest
import torch

from mmvheat.checkpoint import read_checkpoint

CONFIGS = Path(__file__).parent / 'configs'
IN_MID_EPOCH = [
    'default_hooks.checkpoint.by_epoch=False',
    'default_hooks.checkpoint.interval=3',
    'default_hooks.checkpoint.save_best=None',
]


def _last_metrics(work_dir: Path) -> dict[str, float]:
    newest = max(work_dir.glob('2*/vis_data/scalars.json'), key=lambda path: path.parts[-3])
    found = json.loads(newest.read_text().splitlines()[-1])
    return {name: value for name, value in found.items() if not name.endswith('time')}


def _number(checkpoint: str) -> int:
    return int(checkpoint.strip().removesuffix('.pth').rpartition('_')[2] or 0)


def _kill_after(checkpoint: str, work_dir: Path, process: Popen) -> None:
    """Kill a training once it has saved this checkpoint, or one that came while nobody looked."""
    pointer = work_dir / 'last_checkpoint'
    deadline = time.monotonic() + 120
    while not (pointer.is_file() and _number(pointer.read_text()) >= _number(checkpoint)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('library', 'kills', 'last'),
    [
        # By epoch; data in the main process; one checkpoint kept and the best saved. Checkpoints
        # in the middle of epochs must lead to the same end.
        (
            'classification',
            {'epoch_4.pth': [], 'iter_15.pth': IN_MID_EPOCH},
            ('epoch_12.pth', 'iter_48.pth'),
        ),
        # By iteration; data in a worker process that has read ahead.
        ('segmentation', {'iter_12.pth': []}, ('iter_40.pth',)),
    ],
    ids=['epochs', 'iterations'],
)
def test_killed_and_resumed_equals_uninterrupted(
    library: str,
    kills: dict[str, list[str]],
    last: tuple[str, ...],
    start: Callable[..., Popen],
    run: Callable[..., str],
    tmp_path: Path,
) -> None:
    def arguments(name: str, options: list[str] = ()) -> list:
        given = ['--cfg-options', *options] if options else []
        return [CONFIGS / f'{library}.py', '--seed', 3, '--work-dir', tmp_path / name, *given]

    def kill_and_resume(checkpoint: str, options: list[str], final: str) -> None:
        killed = start('train.py', *arguments(final, options))
        _kill_after(checkpoint, tmp_path / final, killed)
        assert not (tmp_path / final / final).exists()
        log = run('train.py', *arguments(final, options), '--resume')
        assert 'resumed epoch' in log

    whole = start('train.py', *arguments('whole'))
    with ThreadPoolExecutor() as pool:
        list(pool.map(kill_and_resume, kills, kills.values(), last))
    _, errors = whole.communicate(timeout=120)
    assert whole.returncode == 0, errors[-3000:]

    expected = read_checkpoint(tmp_path / 'whole' / last[0])
    for final in last:
        found = read_checkpoint(tmp_path / final / final)
        assert found['meta']['iter'] == expected['meta']['iter']
        assert found['state_dict'].keys() == expected['state_dict'].keys()
        for name, tensor in expected['state_dict'].items():
            assert torch.equal(found['state_dict'][name], tensor), (final, name)
        assert _last_metrics(tmp_path / final) == _last_metrics(tmp_path / 'whole')
    names = [sorted(path.name for path in (tmp_path / n).glob('*.pth')) for n in ('whole', last[0])]
    assert names[0] == names[1]
