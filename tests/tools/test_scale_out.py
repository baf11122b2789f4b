"""One training, scaled out in every way there is, ends with the same weights."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest
import torch
from in_process import last_log, last_metrics
from web import free_port

from mmvheat.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
CONFIGS = Path(__file__).parent / 'configs'

# Nothing random but the initial weights: arithmetic is compared. A learning rate by layers,
# accumulated and clipped gradients and decay of matrices alone are what sharding breaks.
CONFIG = f"""
_base_ = {str(CONFIGS / 'classification.py')!r}
load, pack = dict(type='LoadImageFromFile'), dict(type='PackInputs')
model = dict(backbone=dict(drop_path_rate=0.0))
train_dataloader = dict(sampler=dict(shuffle=False), dataset=dict(pipeline=[load, pack]))
optim_wrapper = dict(
    optimizer=dict(weight_decay=0.5),
    clip_grad=dict(max_norm=0.1),
    accumulative_counts=2,
    constructor='mmvheat.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.8, flat_decay_mult=0.0),
)
param_scheduler = dict(end=12)
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=9))
"""
SHARDED = f"""
_base_ = ['./config.py', {str(ROOT / 'configs' / '_base_' / 'fsdp.py')!r}]
model = dict(backbone=dict(with_cp=True))
"""

# Starts the processes as srun does, each on a node of its own, and notes what it was told.
SRUN = f"""#!{sys.executable}
import json, os, subprocess, sys
given = sys.argv[1:]
with open(os.path.join(os.path.dirname(__file__), 'seen.json'), 'w') as file:
    json.dump(given, file)
command = given[given.index(os.environ['PYTHON']):]
count = int(next(word for word in given if word.startswith('--ntasks=')).partition('=')[2])
step = dict(SLURM_NTASKS=str(count), SLURM_LOCALID='0', SLURM_NODELIST='node[1-2]')
processes = [
    subprocess.Popen(command, env=dict(os.environ, **step, SLURM_PROCID=str(rank)))
    for rank in range(count)
]
sys.exit(max(abs(process.wait()) for process in processes))
"""
SCONTROL = """#!/bin/sh
[ "$*" = "show hostnames node[1-2]" ] && printf "localhost\\nnode2\\n"
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # mmengine collects the results of several processes in ./.dist_test.
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope='module')
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with what stands in for slurm."""
    folder = tmp_path_factory.mktemp('slurm')
    for name, script in dict(srun=SRUN, scontrol=SCONTROL).items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    return folder


def _succeed(*processes: Popen) -> str:
    outputs = [process.communicate(timeout=240) for process in processes]
    for process, (out, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:] + out[-1000:]
    return ''.join(out + errors for out, errors in outputs)


def _options(work_dir: Path, epochs: int) -> list[object]:
    flags = ['--auto-scale-lr', '--seed', 0]
    return ['--work-dir', work_dir, *flags, '--cfg-options', f'train_cfg.max_epochs={epochs}']


@pytest.fixture(scope='module')
def root(start: Callable[..., Popen], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train for 3 epochs in two processes of one node, into ``root / 'plain'``."""
    root = tmp_path_factory.mktemp('scale_out')
    (root / 'config.py').write_text(CONFIG)
    (root / 'sharded.py').write_text(SHARDED)
    log = _succeed(start('dist_train.sh', root / 'config.py', 2, *_options(root / 'plain', 3)))
    # The stem's: 2 processes of 2 images are half of base_batch_size (accumulation does not count),
    # and 5 layers follow it.
    assert f' lr: {1e-3 / 2 * 0.8**5:.4e} ' in log
    assert log.count('Layer-wise learning rates') == 1
    return root


def _accuracy(work_dir: Path, log: str) -> float:
    """Read the last accuracy that a run in ``work_dir`` has noted."""
    (file,) = work_dir.glob(log)
    (last,) = [line for line in file.read_text().splitlines() if 'accuracy' in line][-1:]
    return json.loads(last)['accuracy/top1']


@pytest.mark.slow
def test_two_nodes_are_two_processes(root: Path, start: Callable[..., Popen]) -> None:
    port = str(free_port())
    nodes = [
        start(
            'dist_train.sh',
            root / 'config.py',
            1,
            *_options(root / 'nodes', 1),
            NNODES='2',
            NODE_RANK=rank,
            MASTER_ADDR='127.0.0.1',
            PORT=port,
        )
        for rank in '10'
    ]
    _succeed(*nodes)
    ours, plain = (read_checkpoint(root / name / 'epoch_1.pth') for name in ('nodes', 'plain'))
    assert ours['meta']['iter'] == plain['meta']['iter'] == 2
    torch.testing.assert_close(ours['state_dict'], plain['state_dict'], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_shards_are_one_model(root: Path, slurm: Path, start: Callable[..., Popen]) -> None:
    """Sharded, with recomputed activations, stopped, resumed by slurm, then tested unsharded."""
    work_dir, tested = root / 'sharded', root / 'tested'
    on_slurm = dict(PATH=f'{slurm}:{os.environ["PATH"]}', GPUS='2', GPUS_PER_NODE='1')
    _succeed(start('dist_train.sh', root / 'sharded.py', 2, *_options(work_dir, 1)))
    arguments = ['partition', 'job', root / 'sharded.py', work_dir, '--resume']
    options = _options(work_dir, 3)[2:]
    _succeed(start('slurm_train.sh', *arguments, *options, **on_slurm, PORT=str(free_port())))
    assert not list(work_dir.glob('*.part'))
    sharded, plain = (
        read_checkpoint(work_dir / 'epoch_3.pth'),
        read_checkpoint(root / 'plain' / 'epoch_3.pth'),
    )
    for name in ('epoch', 'iter'):
        assert sharded['meta'][name] == plain['meta'][name]
    torch.testing.assert_close(sharded['state_dict'], plain['state_dict'], rtol=1e-4, atol=1e-6)
    first = read_checkpoint(root / 'plain' / 'epoch_1.pth')['state_dict']
    moved = [(plain['state_dict'][name] - tensor).abs().max() for name, tensor in first.items()]
    assert min(moved) > 1e-5, 'the later epochs count'

    arguments = ['partition', 'job', root / 'sharded.py', work_dir / 'epoch_3.pth']
    options = ['--work-dir', tested]
    _succeed(start('slurm_test.sh', *arguments, *options, **on_slurm, PORT=str(free_port())))
    validated = _accuracy(root / 'plain', '2*/vis_data/scalars.json')
    assert last_metrics(tested)['accuracy/top1'] == validated


@pytest.fixture
def script(slurm: Path, tmp_path: Path) -> Callable[..., tuple[int, str, list[str]]]:
    """Run a slurm script whose Python does nothing; return status, errors and srun's arguments."""
    Path('config.py').touch()
    Path('checkpoint.pth').touch()
    seen = slurm / 'seen.json'

    def script(name: str, *arguments: str, **environment: str) -> tuple[int, str, list[str]]:
        seen.unlink(missing_ok=True)
        env = dict(PYTHON='true', PATH=f'{slurm}:{os.environ["PATH"]}') | environment
        command = ['/bin/bash', str(ROOT / 'tools' / name), *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stderr, json.loads(seen.read_text()) if seen.exists() else []

    return script


def test_srun_gets_the_arguments_of_openmmlab(script) -> None:
    status, errors, given = script(
        'slurm_train.sh',
        *('gpu', 'vheat', 'config.py', 'work', '--amp'),
        GPUS='16',
        CPUS_PER_TASK='4',
        SRUN_ARGS='--exclusive --quotatype=auto',
        PY_ARGS='--seed 3',
    )
    assert (status, errors) == (0, '')
    tools = ROOT / 'tools'
    assert [word.replace(f'{tools}/', '') for word in given] == [
        *('-p', 'gpu', '--job-name=vheat', '--gres=gpu:8', '--ntasks=16', '--ntasks-per-node=8'),
        *('--cpus-per-task=4', '--kill-on-bad-exit=1', '--exclusive', '--quotatype=auto'),
        *('true', '-u', 'train.py', 'config.py', '--work-dir', 'work', '--amp'),
        *('--launcher', 'slurm', '--seed', '3'),
    ]


def test_srun_is_asked_for_no_more_than_there_is(script) -> None:
    arguments = ['gpu', 'vheat', 'config.py', 'checkpoint.pth', '--tta']
    given = script('slurm_test.sh', *arguments, GPUS='2')[2]
    assert {'--gres=gpu:2', '--ntasks=2', '--ntasks-per-node=2', '--cpus-per-task=5'} <= set(given)
    assert given[-7:] == ['-u', f'{ROOT}/tools/test.py', *arguments[2:], '--launcher', 'slurm']
    given = script('slurm_test.sh', *arguments, GPUS='2', CUDA_VISIBLE_DEVICES='-1')[2]
    assert '--ntasks=2' in given
    assert not any(word.startswith('--gres') for word in given)


@pytest.mark.parametrize(
    ('arguments', 'environment', 'said'),
    [
        ('slurm_train.sh gpu vheat', {}, 'usage: bash tools/slurm_train.sh PARTITION JOB_NAME'),
        ('slurm_test.sh gpu vheat config.py', {}, 'usage: bash tools/slurm_test.sh PARTITION'),
        ('slurm_train.sh gpu vheat no.py', {}, 'no.py does not exist'),
        ('slurm_test.sh gpu vheat config.py no.pth', {}, 'no.pth does not exist'),
        ('slurm_train.sh gpu vheat config.py', dict(GPUS='x'), "GPUS must be .* >= 1, got 'x'"),
        ('slurm_train.sh gpu vheat config.py', dict(GPUS='0'), "GPUS must be .* >= 1, got '0'"),
        (
            'slurm_train.sh gpu vheat config.py',
            dict(GPUS='12', GPUS_PER_NODE='8'),
            'GPUS=12 is no multiple of GPUS_PER_NODE=8',
        ),
        ('slurm_train.sh gpu vheat config.py', dict(CPUS_PER_TASK='-1'), "CPUS_PER_TASK .* '-1'"),
        ('slurm_train.sh gpu vheat config.py', dict(PORT='70000'), "PORT is .*, got '70000'"),
        ('slurm_train.sh gpu vheat config.py', dict(PATH='/nowhere:/bin'), 'srun is not on PATH'),
    ],
)
def test_a_mistake_is_one_line_and_no_job(script, arguments, environment, said) -> None:
    status, errors, given = script(*arguments.split(), **environment)
    assert (status, given) == (2, [])
    assert errors.startswith('error: ') and errors.count('\n') == 1
    assert re.search(said, errors)


def test_the_learning_rate_of_a_segmentor_scales(tool: Callable) -> None:
    """That of a classifier is seen in ``root``, that of a detector in test_train_and_test.py."""
    done = tool(
        *('train', CONFIGS / 'segmentation.py', '--auto-scale-lr', '--work-dir', 'work'),
        *('--cfg-options', 'auto_scale_lr.base_batch_size=8', 'default_hooks.logger.interval=1'),
        *('train_cfg.max_iters=1', 'train_dataloader.num_workers=0'),
        *('val_cfg=None', 'val_dataloader=None', 'val_evaluator=None'),
    )
    assert done == (0, '')
    assert ' lr: 2.5000e-04 ' in last_log('work')
