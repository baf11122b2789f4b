"""Train and test one run in a process of its own, and leave what came of it in a file."""

import argparse
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from mmengine.config import Config

from mmvheat.checkpoint import convert_state_dict, read_checkpoint, write_checkpoint
from mmvheat.checkpoint.formats import find_state_dict
from mmvheat.cli.command import run_command
from mmvheat.cli.config import load_config
from mmvheat.cli.prepare import prepare_training
from mmvheat.engine.runner import build_runner
from mmvheat.errors import UserError

from . import peers  # noqa: F401, registers them
from .grid import Start
from .records import Job, write_json

__all__ = ['RESULT', 'Task', 'build_config', 'convert', 'run_task']

RESULT = 'result.json'
_PACKAGES = ('torch', 'mmengine', 'mmpretrain', 'mmdet', 'mmsegmentation', 'numpy')


@dataclass(frozen=True)
class Task:
    """A run with all that is decided when it starts.

    Attributes:
        job: The run.
        candidate: The overrides that it takes from its arm's candidates.
        folder: For its log, its checkpoints and its result.
        source: Checkpoint that it starts with, None for random weights.
        top: Folder that the paths of configs and data are relative to.
    """

    job: Job
    candidate: Mapping[str, Any]
    folder: Path
    source: Path | None
    top: Path


def run_task(task: Task) -> None:
    """Do a run, as the whole of a process: it exits with the status of a command line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    task.folder.mkdir(parents=True, exist_ok=True)
    log = os.open(task.folder / 'log.txt', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(task.top)
    torch.set_num_threads(1)
    sys.exit(run_command(lambda: _train_and_test(task)))


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def build_config(task: Task) -> Config:
    """Make the config of a run, without its seed, its folder and its start.

    Args:
        task: The run.

    Raises:
        UserError: If the config cannot be read.
    """
    job, arm = task.job, task.job.arm
    cfg = load_config(arm.config, deepcopy({**arm.settings, **task.candidate}))
    _set_length(cfg, max(1, job.iterations))
    if job.candidate is not None:
        _hold_out(cfg, *arm.holdout)
    cfg.default_hooks.checkpoint.update(interval=max(1, job.iterations // 5), max_keep_ckpts=1)
    cfg.default_hooks.logger.update(interval=max(1, min(50, job.iterations)))
    cfg.randomness = dict(seed=None)
    return cfg


def _set_length(cfg: Config, iterations: int) -> None:
    """Stretch or shrink a training, and its schedule with it."""
    share = iterations / cfg.train_cfg.max_iters
    cfg.train_cfg.max_iters = iterations
    for scheduler in cfg.param_scheduler:
        for name in ('begin', 'end', 'T_max'):
            if name in scheduler:
                scheduler[name] = max(name != 'begin', round(share * scheduler[name]))


def _hold_out(cfg: Config, first: int, last: int) -> None:
    """Train on the first images of the training set, and test on its last."""
    train, test = cfg.train_dataloader.dataset, cfg.test_dataloader.dataset
    for name in ('ann_file', 'data_prefix', 'split', 'test_mode'):
        if name in train:
            test[name] = deepcopy(train[name])
        else:
            test.pop(name, None)
    train.indices, test.indices = first, -last
    if cfg.test_evaluator.type == 'CocoMetric':
        # Which needs the truth of the images that it gets, and of no others.
        cfg.test_evaluator.ann_file = test.ann_file = f'{{folder}}/last_{last}.json'
        del test.indices


def _as_text(cfg: Config) -> str:
    """Spell a config as Python, which knows tuples; `Config.dump` would lay it out for seconds."""
    return ''.join(f'{name} = {value!r}\n' for name, value in sorted(cfg.to_dict().items()))


def _write_held_out(cfg: Config, folder: Path) -> None:
    """Write the truth of the held-out images where the config expects it."""
    test, train = cfg.test_dataloader.dataset, cfg.train_dataloader.dataset
    name = test.get('ann_file', '')
    if not name.startswith('{folder}'):
        return
    path = Path(name.format(folder=folder.absolute()))
    coco = json.loads(Path(train.data_root, train.ann_file).read_text())
    last = int(path.stem.removeprefix('last_'))
    coco['images'] = coco['images'][-last:]
    kept = {image['id'] for image in coco['images']}
    coco['annotations'] = [one for one in coco['annotations'] if one['image_id'] in kept]
    write_json(path, coco)
    test.ann_file = cfg.test_evaluator.ann_file = str(path)


def convert(source: Path, target: Path, start: Start) -> None:
    """Convert the checkpoint that a run starts with.

    Args:
        source: What another run ended with.
        target: File to write.
        start: For what, and how.
    """
    tensors = find_state_dict(read_checkpoint(source)).tensors
    mode = 'bicubic' if start.mode == 'mean' else start.mode
    sizes = start.source_size, start.target_size
    tensors, _ = convert_state_dict(tensors, *sizes, mode=mode, task=start.task)
    if start.mode == 'mean':
        tensors = {
            name: value.mean((0, 1), keepdim=True).expand_as(value).contiguous()
            if '.freq_embed.' in f'.{name}'
            else value
            for name, value in tensors.items()
        }
    write_checkpoint(target, tensors, {}, force=True)


def _train_and_test(task: Task) -> None:
    job, arm = task.job, task.job.arm
    cfg = build_config(task)
    portable = _as_text(cfg)
    _write_held_out(cfg, task.folder)
    if arm.start is not None:
        weights = task.folder / 'start.pth'
        convert(task.source, weights, arm.start)
        if arm.start.task == 'downstream':
            cfg.model.backbone.init_cfg = dict(
                type='Pretrained', checkpoint=str(weights), prefix='backbone.'
            )
        else:
            cfg.load_from = str(weights)
    path = task.folder / 'config.py'
    path.write_text(_as_text(cfg))
    args = argparse.Namespace(
        config=str(path), cfg_options=None, launcher='none', work_dir=str(task.folder), amp=False,
        resume='auto' if job.iterations else None, auto_scale_lr=False, tensorboard=False,
        seed=job.seed, compile=None,
    )  # fmt: skip
    cfg, begin = prepare_training(args)
    runner = build_runner(cfg, args.config)
    if begin is not None:
        begin.check_fit(runner.model, exact=cfg.resume)
    diverged, figures = None, {}
    try:
        if job.iterations:
            runner.train()
    except UserError as error:
        # A rate that is too high is an answer too.
        if not str(error).startswith('training stops '):
            raise
        diverged = str(error)
    started = time.perf_counter()
    if diverged is None:
        figures = runner.test()
    test_seconds = time.perf_counter() - started
    curve, seconds = _read_curve(task.folder)
    metrics = {
        name: float(figures[name]) * factor
        for name, factor in arm.metrics.items()
        if name in figures and math.isfinite(figures[name])
    }
    write_json(
        task.folder / RESULT,
        {
            'study': arm.study,
            'arm': arm.name,
            'seed': job.seed,
            'fingerprint': job.fingerprint,
            'settings': dict(task.candidate),
            'start': None if arm.start is None else asdict(arm.start),
            'iterations': job.iterations,
            'metrics': metrics,
            'diverged': diverged,
            'losses': [[step, round(loss, 4)] for step, loss in curve if math.isfinite(loss)],
            'train_seconds': round(seconds, 1),
            'test_seconds': round(test_seconds, 1),
            'machine': machine(task.top),
            'config': portable,
        },
    )


def _read_curve(folder: Path) -> tuple[list[tuple[int, float]], float]:
    """Read losses by step, and the seconds of all steps; a step done twice counts once."""
    lines: dict[int, dict] = {}
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            values = json.loads(line)
            if 'loss' in values:
                lines[values['step']] = values
    steps = sorted(lines)
    seconds = sum(
        lines[step]['time'] * (step - before)
        for before, step in zip([0, *steps], steps, strict=False)
    )
    return [(step, lines[step]['loss']) for step in steps], seconds


def machine(top: Path) -> dict[str, Any]:
    """Say what ran: commit, versions, processor."""
    git = ['git', '-C', str(top)]
    commit, changes = (
        subprocess.run([*git, *what], capture_output=True, text=True).stdout.strip()
        for what in (
            ('rev-parse', 'HEAD'), ('status', '--porcelain', '--', 'mmvheat', 'configs', 'tools'),
        )
    )  # fmt: skip
    return {
        'commit': commit + '+changes' * bool(changes),
        'python': platform.python_version(),
        'versions': {name: found for name in _PACKAGES if (found := _version(name))},
        'cpu': _processor(),
        'threads': torch.get_num_threads(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
