"""Run what is left of the study, two at a time, within a budget of minutes."""

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Mapping
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from .grid import STUDIES, Arm, find_arm
from .records import Job, Records, jobs_of, read_costs, write_json

__all__ = ['Study']

# Imports and data, before the first iteration.
_START_SECONDS = 8.0
# With less left there is no use in starting a run.
_LEAST_SECONDS = 20.0
_RESULT = 'result.json'


class Study:
    """What is to be trained, and what was.

    Args:
        arms: All there are.
        records: Where results are kept.
        work_dir: For logs and checkpoints.
        top: Folder that the paths of configs and data are relative to.
        seeds: Runs of every arm.
        only: The one sub-study to run; those of other sub-studies that it needs run too.
        console: Where progress goes.
    """

    def __init__(
        self,
        arms: tuple[Arm, ...],
        records: Records,
        work_dir: Path,
        top: Path,
        seeds: int,
        only: str | None,
        console: Console,
    ) -> None:
        self.arms, self.records, self.seeds = arms, records, seeds
        self.work_dir, self.top, self.console = work_dir.absolute(), top.absolute(), console
        self.wanted = [
            job
            for arm in arms
            if only in (None, arm.study)
            for job in jobs_of(arm, seeds)
        ]  # fmt: skip
        self.failed: dict[str, str] = {}

    def left(self) -> list[Job]:
        """List what is to be run, in this order where what it needs is there."""
        todo: dict[str, Job] = {}

        def add(job: Job) -> None:
            if self._path(job) not in todo:
                todo[self._path(job)] = job
                for needed in self._needs(job):
                    add(needed)

        for job in self.wanted:
            if self.records.find(job) is None:
                add(job)
        studies, places = list(STUDIES), {arm.path: i for i, arm in enumerate(self.arms)}
        return sorted(
            todo.values(),
            key=lambda job: (
                studies.index(job.arm.study), job.candidate is None, job.seed, places[job.arm.path],
            ),
        )  # fmt: skip

    def _needs(self, job: Job) -> list[Job]:
        """What must be run before a run can be."""
        arm, needed = job.arm, []
        if job.candidate is None and len(arm.candidates) > 1:
            searched = arm if arm.like is None else find_arm(self.arms, arm.like)
            needed = [Job(searched, 0, number) for number in range(len(searched.candidates))]
            needed = [search for search in needed if self.records.find(search) is None]
        if arm.start is not None:
            source = self._source(job)
            if self.records.find(source) is None or not self._checkpoint(source).is_file():
                needed.append(source)
        return needed

    def _source(self, job: Job) -> Job:
        return Job(job.arm.start.arm, job.seed)

    def _folder(self, job: Job) -> Path:
        return self.work_dir / job.arm.study / job.key

    def _path(self, job: Job) -> str:
        return f'{job.arm.study}/{job.key}'

    def _checkpoint(self, job: Job) -> Path:
        return self._folder(job) / f'iter_{job.iterations}.pth'

    def _is_source(self, job: Job) -> bool:
        """Whether others start with what a run ends with."""
        starts = [arm.start.arm for arm in self.arms if arm.start is not None]
        return job.candidate is None and job.arm in starts

    def seconds(self, job: Job) -> float:
        """Estimate how long a run takes on one core: as others of its arm took, or by the grid."""
        arm = job.arm
        runs = [
            run
            for run in self.records.study(arm.study)['runs'].values()
            if run['arm'] == arm.name and run['iterations']
        ]
        iterations = sum(run['iterations'] for run in runs)
        measured = sum(run['train_seconds'] for run in runs) / iterations if iterations else None
        each = arm.seconds if measured is None else measured
        return each * job.iterations + arm.test_seconds + _START_SECONDS

    def minutes_left(self, processes: int) -> float:
        """Estimate how long all that is left takes."""
        return sum(map(self.seconds, self.left())) / 60 / processes

    def table(self, processes: int) -> Table:
        """Show what is done and what is left of every arm."""
        left = self.left()
        paths = {self._path(job) for job in left}
        arm_column = Column('arm', overflow='fold')
        table = Table(arm_column, 'search', 'seeds', 'minutes left, one core', box=None)
        total: dict[str, float] = dict.fromkeys(STUDIES, 0.0)
        for arm in self.arms:
            jobs = [job for job in self.wanted if job.arm == arm]
            jobs += [job for job in left if job.arm == arm and job not in jobs]
            if not jobs:
                continue
            seconds = sum(self.seconds(job) for job in left if job.arm == arm)
            total[arm.study] += seconds
            cells = []
            for is_search in (True, False):
                own = [job for job in jobs if (job.candidate is not None) == is_search]
                done = [job for job in own if self._path(job) not in paths]
                cells.append(f'{len(done)}/{len(own)}' if own else '')
            table.add_row(arm.path, *cells, f'{seconds / 60:.1f}' if seconds else '')
        for study, seconds in total.items():
            count = sum(job.arm.study == study for job in left)
            time_left = f'{seconds / 60:.0f}, {seconds / 60 / processes:.0f} by {processes} runs'
            table.add_row(f'{study}: {count} runs left', '', '', time_left, style='bold')
        return table

    def run(self, minutes: float, processes: int = 2) -> bool:
        """Run what is left; whatever ends it, what was trained so far is gone on with next time.

        Args:
            minutes: Budget. What runs at its end is stopped.
            processes: How many runs at a time, of one thread each.

        Returns:
            Whether nothing is left.
        """
        self._collect()
        deadline = time.monotonic() + 60 * minutes
        context = _context(self.top)
        running: dict[str, tuple[Job, BaseProcess, float]] = {}
        try:
            while True:
                left = [job for job in self.left() if self._path(job) not in running]
                ready = [job for job in left if self._is_ready(job, running)]
                time_left = deadline - time.monotonic()
                if ready and len(running) < processes and time_left > _LEAST_SECONDS:
                    job = ready[0]
                    running[self._path(job)] = (job, self._start(job, context), time.monotonic())
                    continue
                if not running or time_left <= 0:
                    break
                wait([process.sentinel for _, process, _ in running.values()], max(time_left, 0.1))
                for path, (job, process, began) in list(running.items()):
                    if not process.is_alive():
                        del running[path]
                        self._finish(job, process, time.monotonic() - began, processes)
        finally:
            for _, process, _ in running.values():
                process.terminate()
            for _, process, _ in running.values():
                process.join()
        if running:
            names = ', '.join(running)
            self.console.print(f'stopped, to be gone on with: {names}', highlight=False)
        return not self.left()

    def _is_ready(self, job: Job, running: Mapping[str, Any]) -> bool:
        if self._path(job) in self.failed:
            return False
        return not self._needs(job)

    def _collect(self) -> None:
        """Take in what runs left that ended after their driver did."""
        for job in self.left():
            if (self._folder(job) / _RESULT).is_file():
                self._take(job)

    def _take(self, job: Job) -> dict[str, Any] | None:
        """Put a run's result into the records; None if it left none of this fingerprint."""
        folder = self._folder(job)
        try:
            result = json.loads((folder / _RESULT).read_text())
        except (OSError, ValueError):
            return None
        if result.get('fingerprint') != job.fingerprint:
            return None
        self.records.add(job, result)
        if not self._is_source(job):
            for path in folder.glob('*.pth'):
                path.unlink()
        return result

    def _start(self, job: Job, context: Any) -> BaseProcess:
        """Start a run, or go on with one that was stopped."""
        from .train_one import Task, run_task

        folder = self._folder(job)
        source = None if job.arm.start is None else self._checkpoint(self._source(job))
        candidate = {}
        if job.candidate is not None:
            candidate = job.arm.candidates[job.candidate]
        elif (chosen := self.records.choose(job.arm, self.arms)) is not None:
            candidate = job.arm.candidates[chosen]
        # What lies there of another grid, or another choice, is not gone on with.
        asked = json.loads(json.dumps([job.fingerprint, candidate]))
        known = folder / 'asked.json'
        if not known.is_file() or json.loads(known.read_text()) != asked:
            shutil.rmtree(folder, ignore_errors=True)
            write_json(known, asked)
        (folder / _RESULT).unlink(missing_ok=True)
        task = Task(job, candidate, folder, source, self.top)
        process = context.Process(target=run_task, args=(task,), daemon=True)
        process.start()
        return process

    def _finish(self, job: Job, process: BaseProcess, seconds: float, processes: int) -> None:
        path = self._path(job)
        result = self._take(job) if process.exitcode == 0 else None
        if result is None:
            cause = _last_error(self._folder(job) / 'log.txt') or f'status {process.exitcode}'
            self.failed[path] = cause
            self.console.print(f'{path} failed: {cause}', style='red', markup=False)
            return
        figures = ', '.join(
            f'{name.split("/")[-1]} {value:.2f}' for name, value in result['metrics'].items()
        )
        left = self.minutes_left(processes)
        self.console.print(
            f'{path}: {figures or "no finite figures"}, {seconds:.0f} s; '
            f'{len(self.left())} runs left, about {left:.0f} min',
            highlight=False,
            markup=False,
        )

    def measure_costs(self) -> None:
        """Time and count the ablation's models, alone on the machine, unless that was done."""
        path = self.records.folder / 'costs.json'
        if read_costs(self.records.folder):
            return
        from .costs import measure_costs

        process = _context(self.top).Process(target=measure_costs, args=(path, self.top))
        process.start()
        try:
            process.join()
        finally:
            process.terminate()
        if process.exitcode:
            self.failed['costs'] = f'status {process.exitcode}'


def _context(top: Path) -> Any:
    """Processes that are forked from one that has imported all, which takes seconds."""
    from mmvheat.cli.launch import process_environment

    context = multiprocessing.get_context('forkserver')
    paths = [str(top), str(Path(__file__).parents[1]), *os.environ.get('PYTHONPATH', '').split(':')]
    os.environ['PYTHONPATH'] = ':'.join(dict.fromkeys(filter(None, paths)))
    # As `tools/dist_train.sh` does.
    for name, value in process_environment(2).items():
        os.environ.setdefault(name, value)
    os.environ['OMP_NUM_THREADS'] = os.environ['MKL_NUM_THREADS'] = '1'
    context.set_forkserver_preload(['studies.train_one', 'studies.libraries'])
    return context


def _last_error(log: Path) -> str | None:
    """The line of a log that says what went wrong."""
    try:
        lines = [line for line in log.read_text(errors='replace').splitlines() if line.strip()]
    except OSError:
        return None
    mistakes = [line for line in lines if line.startswith('error: ')]
    return (mistakes or lines or [None])[-1]
