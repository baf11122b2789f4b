"""Run a command into the log: progress while it runs, one line when it fails."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import places


class SetupError(Exception):
    """What went wrong and what to do about it, in one line."""


def say(text):
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def clock(seconds):
    """Seconds as `m:ss`."""
    return '{}:{:02d}'.format(*divmod(int(seconds), 60))


class Progress:
    """A line that is rewritten on a terminal, or printed twice a minute elsewhere."""

    def __init__(self, every=30.0):
        self.start = self.last = time.monotonic()
        self.every = every
        self.terminal = sys.stdout.isatty()

    def show(self, text):
        """Show where the step stands."""
        if self.terminal:
            sys.stdout.write('\r\033[K      ' + text)
            sys.stdout.flush()
        elif time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            say('      ' + text)

    def close(self):
        """Clear the line, so that an error or the next step starts on an empty one."""
        if self.terminal:
            sys.stdout.write('\r\033[K')
            sys.stdout.flush()


def failure(output, fallback):
    """The one line of `output` that says why, with what to do where that is known."""
    if 'No space left on device' in output:
        return (
            f'the disk is full (.venv in {places.ROOT}, temporary files in '
            f'{tempfile.gettempdir()}): free some space, or point TMPDIR to another disk'
        )
    if re.search(r'Killed signal|internal compiler error: Killed', output):
        return 'the compiler ran out of memory: call MAX_JOBS=1 make setup'
    if re.search(
        r'Failed to establish a new connection|Temporary failure in name resolution|'
        r'Network is unreachable|Connection refused|ReadTimeoutError|ProxyError|SSLError',
        output,
    ):
        return 'the package index cannot be reached: check network, proxy and `pip config list`'
    for pattern, hint in (
        (r'No matching distribution found for .*', 'is the index a full mirror of PyPI?'),
        (r'\S*:\d+:\d+: (?:fatal )?error: .*', 'mmcv does not compile with this compiler'),
        (r'(?:ModuleNotFound|Import)Error: .*', 'the environment is damaged: make clean setup'),
    ):
        found = re.search(pattern, output)
        if found:
            return f'{found.group(0).strip()}: {hint}'
    errors = re.findall(r'^\s*(?:ERROR|error): (.+)', output, re.MULTILINE)
    return errors[0].strip() if errors else fallback


def child_env(**extra):
    """The caller's environment without what would lead pip past `.venv`."""
    drop = {'PYTHONPATH', 'PYTHONHOME', 'PIP_USER', 'PIP_TARGET', 'PIP_PREFIX', 'PIP_CONSTRAINT'}
    env = {name: value for name, value in os.environ.items() if name not in drop}
    env.update(LC_ALL='C.UTF-8', PIP_NO_INPUT='1', PIP_DISABLE_PIP_VERSION_CHECK='1')
    env.update(extra)
    return env


def run(command, words='working', progress=None, **env):
    """Run `command` into the log, showing progress; a failure becomes one line.

    Args:
        command: the command line.
        words: what to show with the time taken, or `words(output, elapsed)` that gives it.
        progress: the line to show them on, for commands that share one; a new one if None.
        **env: variables to add to the command's environment.

    Raises:
        SetupError: the command failed; the message holds the cause and the log's path.
    """
    progress = progress or Progress()
    # Its own TMPDIR, because pip leaves its build folder behind when it is told to end.
    temporary = tempfile.TemporaryDirectory(prefix='mmvheat-setup-', ignore_cleanup_errors=True)
    with temporary as scratch, places.LOG.open('a+', errors='replace') as log:
        log.write('\n$ ' + ' '.join(map(str, command)) + '\n')
        log.flush()
        begin = log.tell()
        # A session of its own: a signal to us is passed on to the whole family, compilers included.
        child = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=child_env(TMPDIR=scratch, **env),
            cwd=str(places.ROOT),
            start_new_session=True,
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = child.wait(timeout=0.5)
                    break
                elapsed = time.monotonic() - progress.start
                log.seek(begin)
                text = words(log.read(), elapsed) if callable(words) else words
                progress.show(f'{text} ({clock(elapsed)})')
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            child.wait()
            raise
        finally:
            progress.close()
        if code:
            log.seek(begin)
            reason = failure(log.read(), f'{Path(command[0]).name} stopped with status {code}')
            raise SetupError(f'{reason} (log: {places.LOG})')


def pip(*arguments):
    """The command line of the environment's pip."""
    return [places.VENV_PYTHON, '-m', 'pip', *arguments]
