"""A training of two processes that is killed again and again ends like an uninterrupted one."""

import contextlib
import os
import random
import re
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest
import torch

from mmvheat.checkpoint import read_checkpoint

HERE = Path(__file__).parent
# One kill of each kind: everything at once, torchrun's process alone, one process of the training,
# rank 0 with half a checkpoint written, torchrun's at that moment.
KINDS = ('everything', 'launcher', 'rank', 'saving rank', 'saving launcher')
FULL = os.environ.get('MMVHEAT_FULL') == '1'
# The other kinds end processes that end by these two as well.
KILLS = KINDS * 4 if FULL else ('launcher', 'saving rank')
ITERATIONS = 20 * len(KILLS)

# Two iterations an epoch; data come from worker processes, which must not outlive a kill either.
CONFIG = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
_base_ = {str(HERE / 'configs' / 'classification.py')!r}
custom_imports = dict(imports=['kill_while_saving'])
custom_hooks = [dict(type='KillWhileSaving')]
train_dataloader = dict(num_workers=1, persistent_workers=True)
train_cfg = dict(max_epochs={ITERATIONS // 2})
param_scheduler = dict(T_max={ITERATIONS // 2})
val_cfg = val_dataloader = val_evaluator = None
checkpoint = dict(by_epoch=False, interval=3, max_keep_ckpts=2, save_best=None)
default_hooks = dict(checkpoint=checkpoint)
"""


def _processes(mark: str) -> dict[int, str]:
    """Find the command lines of the processes that were started with this environment."""
    found = {}
    for entry in Path('/proc').iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark.encode() in (entry / 'environ').read_bytes():
                command = (entry / 'cmdline').read_bytes().replace(b'\0', b' ').decode()
                if command:  # else a zombie, which waits for its parent
                    found[int(entry.name)] = command
    return found


def _furthest(folder: Path) -> int:
    """Read how far the whole checkpoints of a folder are."""
    places = [0]
    for path in folder.glob('*.pth'):
        with contextlib.suppress(ValueError):
            places.append(read_checkpoint(path)['meta']['iter'])
    return max(places)


def _wait_for(iteration: int, folder: Path, process: Popen) -> None:
    deadline = time.monotonic() + 240
    while not any(int(path.stem[5:]) >= iteration for path in folder.glob('iter_*.pth')):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.003)


def _kill(kind: str, process: Popen, mark: str, chance: random.Random) -> None:
    if kind == 'everything':
        victims = list(_processes(mark))
    elif kind == 'launcher':
        victims = [process.pid]
    else:
        ranks = [pid for pid, command in _processes(mark).items() if 'train.py' in command]
        children = [pid for pid in ranks if _parent(pid) == process.pid]
        victims = [chance.choice(children)] if children else [process.pid]
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(re.search(r'PPid:\s+(\d+)', Path(f'/proc/{pid}/status').read_text())[1])
    return 0


@pytest.mark.slow
@pytest.mark.timeout(3600 if FULL else 600)
def test_kills_cost_nothing(start: Callable[..., Popen], tmp_path: Path) -> None:
    chance = random.Random(0)
    (tmp_path / 'config.py').write_text(CONFIG)
    folder = tmp_path / 'killed'

    def train(work_dir: Path, *flags: str, **environment: str) -> tuple[Popen, str]:
        mark = f'MMVHEAT_TEST_MARK={uuid.uuid4().hex}'
        variables = dict([mark.split('=')], **environment)
        arguments = [tmp_path / 'config.py', 2, '--work-dir', work_dir, '--seed', 3, *flags]
        return start('dist_train.sh', *arguments, **variables), mark

    whole, _ = train(tmp_path / 'whole')
    resumed = []
    for kind in KILLS:
        before = _furthest(folder)
        saving, _, victim = kind.partition(' ')
        saves = chance.randint(1, 4)
        variables = dict(KILL_WHILE_SAVING=f'{saves} {victim}') if victim else {}
        process, mark = train(folder, '--resume', **variables)
        if not victim:
            # One in five in the start-up, the others some saves, and then some moments, later.
            if chance.random() < 0.2:
                time.sleep(chance.uniform(0, 12))
            else:
                goal = before + 3 * saves
                _wait_for(goal, folder, process)
                time.sleep(chance.uniform(0, 0.4))
            assert process.poll() is None, 'there must be something to kill'
            _kill(kind, process, mark, chance)
        # Ends when the last process has closed the pipe.
        out, errors = process.communicate(timeout=120)
        assert process.returncode != 0
        _wait_for_none(mark)
        if 'Checkpoints will be saved' in out:
            places = re.findall(r'Resuming .*: iteration (\d+), epoch', out + errors)
            assert places == ([str(before)] if before else []), (kind, out[-2000:], errors[-2000:])
            resumed.append(before)
        if victim:
            assert len(list(folder.glob('*.part'))) == 1
    assert len(set(resumed)) > len(KILLS) / 2, 'the kills must be spread'

    process, mark = train(folder, '--resume')
    for run in (process, whole):
        out, errors = run.communicate(timeout=240)
        assert run.returncode == 0, errors[-3000:] + out[-1000:]
    _wait_for_none(mark)
    assert not list(folder.glob('*.part'))
    name = f'iter_{ITERATIONS}.pth'
    ours, theirs = (read_checkpoint(tmp_path / run / name) for run in ('killed', 'whole'))
    assert ours['meta']['iter'] == theirs['meta']['iter'] == ITERATIONS
    assert ours['state_dict'].keys() == theirs['state_dict'].keys()
    for weight, tensor in theirs['state_dict'].items():
        assert torch.equal(ours['state_dict'][weight], tensor), weight
    for number, state in theirs['optimizer']['state'].items():
        for entry, tensor in state.items():
            assert torch.equal(ours['optimizer']['state'][number][entry], tensor), (number, entry)


def _wait_for_none(mark: str) -> None:
    deadline = time.monotonic() + 60
    while found := _processes(mark):
        assert time.monotonic() < deadline, f'these live on: {found}'
        time.sleep(0.05)
