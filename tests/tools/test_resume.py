"""A run that ends at some moment and is resumed ends like an uninterrupted one.

It ends by an error here, which saves starting a process; test_kills.py kills processes.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from in_process import last_log
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmvheat.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow
CONFIGS = Path(__file__).parent / 'configs'
IN_MID_EPOCH = [
    'default_hooks.checkpoint.by_epoch=False',
    'default_hooks.checkpoint.interval=3',
    'default_hooks.checkpoint.save_best=None',
]


class Ended(BaseException):
    """Nothing handles this, no more than a kill."""


@HOOKS.register_module()
class EndHook(Hook):
    """Ends a training after an iteration, counted from 1."""

    after = 0

    def after_train_iter(self, runner, *_, **__):
        if runner.iter + 1 == EndHook.after:
            raise Ended


def _last_metrics(work_dir: Path) -> dict[str, float]:
    newest = max(work_dir.glob('2*/vis_data/scalars.json'), key=lambda path: path.parts[-3])
    found = json.loads(newest.read_text().splitlines()[-1])
    return {name: value for name, value in found.items() if not name.endswith('time')}


@pytest.mark.parametrize(
    ('library', 'ends', 'last'),
    [
        # By epoch; data in the main process; one checkpoint kept and the best saved. Checkpoints
        # in the middle of epochs must lead to the same end.
        (
            'classification',
            [(18, 'epoch_4.pth', []), (17, 'iter_15.pth', IN_MID_EPOCH)],
            ('epoch_12.pth', 'iter_48.pth'),
        ),
        # By iteration; data in a worker process that has read ahead.
        ('segmentation', [(14, 'iter_12.pth', [])], ('iter_40.pth',)),
    ],
    ids=['epochs', 'iterations'],
)
def test_ended_and_resumed_equals_uninterrupted(
    library: str,
    ends: list[tuple[int, str, list[str]]],
    last: tuple[str, ...],
    tool: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = Path(f'{library}_that_ends.py')
    config.write_text(
        f'_base_ = {str(CONFIGS / f"{library}.py")!r}\ncustom_hooks = [dict(type="EndHook")]\n'
    )

    def train(name: str, options: list[str] = (), *flags: str) -> None:
        given = ['--cfg-options', *options] if options else []
        arguments = [config, '--seed', 3, '--work-dir', name, *given, *flags]
        assert tool('train', *arguments) == (0, '')

    train('whole')
    for (after, checkpoint, options), final in zip(ends, last, strict=True):
        with monkeypatch.context() as patch:
            patch.setattr(EndHook, 'after', after)
            with pytest.raises(Ended):
                train(final, options)
        assert Path(final, 'last_checkpoint').read_text().endswith(checkpoint)
        # Runs of one second and one name share a log.
        config = config.rename(f'{library}_resumed_{after}.py')
        train(final, options, '--resume')
        assert 'resumed epoch' in last_log(final)

    expected = read_checkpoint(Path('whole', last[0]))
    for final in last:
        found = read_checkpoint(Path(final, final))
        assert found['meta']['iter'] == expected['meta']['iter']
        assert found['state_dict'].keys() == expected['state_dict'].keys()
        for name, tensor in expected['state_dict'].items():
            assert torch.equal(found['state_dict'][name], tensor), (final, name)
        assert _last_metrics(Path(final)) == _last_metrics(Path('whole'))
    names = [sorted(path.name for path in Path(n).glob('*.pth')) for n in ('whole', last[0])]
    assert names[0] == names[1]
