"""Runs cases in a child process, which it replaces if a case crashes or hangs it."""

import contextlib
import importlib.util
import io
import multiprocessing
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint import fuzz_canary
from checkpoint.fuzz_bases import SIZE, valid_files
from checkpoint.fuzz_cases import CANARY, Case
from mmengine.logging import HistoryBuffer

from mmvheat.checkpoint import convert_file, fold_file, read_checkpoint
from mmvheat.cli.command import run_command
from mmvheat.errors import UserError

__all__ = ['FLOOR', 'Outcome', 'Server']

# What a case may take whatever its size: pickle_calls' floor for what a pickle makes, its own
# stand-ins and torch's copy of them, and a converter's tables.
FLOOR = 64 << 20
# Of the processor: another process's load is no hang of ours.
CPU_SECONDS = 60
# And of waiting, for what waits for ever, such as the other end of a FIFO.
SECONDS = 600
_SCRIPT = Path(__file__).parents[2] / 'interpolate4downstream.py'
_NEW_SIZE = 96


@dataclass
class Outcome:
    """What came of a case.

    Attributes:
        end: 'read' if the file was read, 'refused' if it was refused.
        faults: What was wrong with how it went.
        messages: What the user was told.
        peak: Most memory that was taken beyond what was there before, in bytes.
        size: Size of the file in bytes.
    """

    end: str = ''
    faults: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    peak: int = 0
    size: int = 0


class Server:
    """A child process to which cases are given one at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context('fork')
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, self.pipe, self.root), daemon=True
        )
        self.process.start()
        theirs.close()
        if not self.pipe.poll(SECONDS) or self.pipe.recv() != 'ready':
            raise RuntimeError('the child did not come up')

    def run(self, case: Case) -> Outcome:
        """Run one case."""
        path = make(case, self.root)
        self.pipe.send((case.name, case.must, os.fspath(path)))
        waited, before = 0, self._cpu_seconds()
        try:
            while waited < SECONDS and self._cpu_seconds() - before < CPU_SECONDS:
                if self.pipe.poll(1):
                    return self.pipe.recv()
                waited += 1
            fault = f'hangs: nothing after {waited} s'
        except EOFError:
            self.process.join()
            fault = f'crashes the process, which ends with {self.process.exitcode}'
        self.process.kill()
        self.process.join()
        self._start()
        return Outcome('lost', [fault])

    def _cpu_seconds(self) -> float:
        """Time the child has had on the processor, in seconds."""
        # Fields are counted behind the name in brackets, which may hold anything.
        fields = Path(f'/proc/{self.process.pid}/stat').read_text().rpartition(')')[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

    def close(self) -> None:
        """End the child."""
        self.pipe.close()
        self.process.join(5)
        self.process.kill()


def make(case: Case, root: Path) -> Path:
    """Lay a case out in a fresh folder."""
    for folder in (root / 'in', root / 'out'):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    return case.make(root / 'in')


def _serve(pipe: Any, others: Any, root: Path) -> None:
    """Answer to cases until the other end is closed."""
    others.close()
    runner = _Runner(root)
    pipe.send('ready')
    while True:
        try:
            name, must, path = pipe.recv()
        except EOFError:
            return
        pipe.send(runner.run(must, Path(path)))


class _Runner:
    """Runs a case in this process and looks at all it must not do."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.out = root / 'out'
        self.main = _command_line()
        warnings.simplefilter('ignore')
        # Whatever is imported or cached on first use is so before anybody watches.
        for name, data in valid_files().items():
            for folder in ('in', 'out'):
                (root / folder).mkdir(exist_ok=True)
            path = root / 'in' / name
            path.write_bytes(data)
            self._all(path, lambda _name, call: _quietly(call))
            path.write_bytes(data[: len(data) // 2])
            self._all(path, lambda _name, call: _quietly(call))
        self.watch = fuzz_canary.Watch()
        self.state = _process_state()

    def run(self, must: str, path: Path) -> Outcome:
        outcome = Outcome()
        with contextlib.suppress(OSError, ValueError):
            outcome.size = path.stat().st_size if path.is_file() else 0
        ends: dict[str, bool] = {}

        def watched(name: str, call: Callable[[], Any]) -> None:
            before = self._listing()
            self.watch.may_write_in = None if name.startswith('read') else os.fspath(self.out)
            baseline = _reset_peak()
            self.watch.active = True
            try:
                call()
                ends[name] = True
            except UserError as error:
                ends[name] = False
                outcome.messages.append(str(error))
                outcome.faults += _faults_of_message(name, str(error), path)
            except BaseException as error:  # noqa: B036 - whatever it is, it is a fault
                ends[name] = False
                outcome.faults.append(f'{name} raises {type(error).__name__}: {error!s:.200}')
            finally:
                self.watch.active = False
            outcome.peak = max(outcome.peak, _peak() - baseline)
            after = self._listing()
            if not ends[name] and after != before:
                outcome.faults.append(f'{name} fails and leaves {sorted(set(after) ^ set(before))}')
            if ends[name] and name not in ('read', 'read mapped'):
                more = set(after) - set(before)
                if any(Path(file).name.startswith('.') for file in more):
                    outcome.faults.append(f'{name} leaves its draft {more}')

        self._all(path, watched)
        outcome.end = 'read' if ends['read'] else 'refused'
        outcome.faults += [f'does {event}' for event in dict.fromkeys(self.watch.seen)]
        self.watch.seen.clear()
        if must and (must == 'load') != ends['read']:
            outcome.faults.append(f'{outcome.end}, but must {must}: {outcome.messages[:1]}')
        if ends['read'] != ends['read mapped']:
            outcome.faults.append(f'read: {ends["read"]}, mapped: {ends["read mapped"]}')
        if not ends['read'] and any(ends.values()):
            outcome.faults.append(f'refused, but {ends}')
        if ends['convert'] != ends['command']:
            outcome.faults.append(f'convert: {ends["convert"]}, command: {ends["command"]}')
        if (self.root / 'in' / CANARY).exists() or fuzz_canary.fired:
            outcome.faults.append('runs code: the canary is gone')
            fuzz_canary.fired.clear()
        if _process_state() != self.state:
            outcome.faults.append('changes what the process shares')
        if outcome.peak > FLOOR + 4 * outcome.size:
            outcome.faults.append(f'takes {outcome.peak >> 20} MiB for {outcome.size} bytes')
        return outcome

    def _all(self, path: Path, each: Callable[[str, Callable[[], Any]], None]) -> None:
        """All ways to read a file: alone, mapped, to convert it, to fold it, from a shell."""
        out = self.out
        each('read', lambda: read_checkpoint(path))
        each('read mapped', lambda: read_checkpoint(path, mmap=True))
        each('convert', lambda: convert_file(path, out / 'new.pth', SIZE, _NEW_SIZE))
        old = b'what was there before'
        for name, call in {
            'fold': lambda: fold_file(path, out / 'old.safetensors', SIZE, force=True),
            'command': lambda: self._command(path, out / 'old.pth'),
        }.items():
            target = out / ('old.pth' if name == 'command' else 'old.safetensors')
            target.write_bytes(old)
            each(name, call)

    def _command(self, path: Path, target: Path) -> None:
        """Convert as a shell would, and turn the line it prints back into an error."""
        arguments = [f'--pt_pth={path}', '--pt_size', f'{SIZE}', '--tg_pth', f'{target}']
        arguments += ['--tg_size', f'{_NEW_SIZE}', '--force']
        said, told = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
            status = run_command(lambda: self.main(arguments))
        text = told.getvalue()
        if status == 0 and not text:
            return
        if status != 2 or not text.startswith('error: ') or text.count('\n') != 1:
            raise AssertionError(f'exit status {status}, stderr {text!r:.300}')
        raise UserError(text.removeprefix('error: ').rstrip('\n'))

    def _listing(self) -> dict[str, bytes]:
        """All files where something may be written, with their contents."""
        return {
            os.fspath(path): path.read_bytes() for path in self.out.rglob('*') if path.is_file()
        }


def _command_line() -> Callable:
    spec = importlib.util.spec_from_file_location('interpolate4downstream', _SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def _quietly(call: Callable[[], Any]) -> None:
    with contextlib.suppress(Exception):
        call()


def _faults_of_message(name: str, message: str, path: Path) -> list[str]:
    """A message is one line that names the file and says what to do, after a colon or 'or'."""
    faults = []
    shown = os.fspath(path)
    shown = shown if shown.isprintable() else ascii(shown)
    if not message.isprintable():
        faults.append(f'{name} says what cannot be printed in a line: {message!r:.300}')
    names = (shown, ' '.join(shown.split()), f'{os.sep}out{os.sep}old.safetensors')
    if not any(name in message for name in names):
        faults.append(f'{name} does not name the file: {message!r:.300}')
    if ': ' not in message or len(message) > len(shown) + 1000:
        faults.append(f'{name} says too little or too much: {message!r:.1500}')
    if 'allocate' in message or 'out of memory' in message:
        faults.append(f'{name} tries to get the memory first: {message!r:.300}')
    return faults


def _process_state() -> tuple:
    """What hostile files have changed for a whole process elsewhere."""
    return (
        frozenset(map(str, torch.serialization.get_safe_globals())),
        tuple(sorted((k, v.__qualname__) for k, v in HistoryBuffer._statistics_methods.items())),
        str(np.dtype('f8').descr),
        np.dtype('f8').itemsize,
        torch.get_default_dtype(),
        tuple(sorted(os.environ.items())),
        os.getcwd(),
        sys.getrecursionlimit(),
        len(warnings.filters),
        torch.is_grad_enabled(),
    )


def _status(field_name: str) -> int:
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{field_name}:'):
            return int(line.split()[1]) << 10
    raise RuntimeError(f'no {field_name} in /proc/self/status')


def _reset_peak() -> int:
    """Start measuring: what is there now, in bytes."""
    Path('/proc/self/clear_refs').write_text('5')
    return _status('VmRSS')


def _peak() -> int:
    return _status('VmHWM')
