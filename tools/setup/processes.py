"""Run a command into the log: progress while it runs, one line when it fails."""

import ast
import contextlib
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import places

# Settings of pip that uv has under another name; uv takes several values with spaces between.
PIP_TO_UV = {
    'index-url': 'UV_DEFAULT_INDEX',
    'extra-index-url': 'UV_INDEX',
    'find-links': 'UV_FIND_LINKS',
    'no-index': 'UV_NO_INDEX',
    'trusted-host': 'UV_INSECURE_HOST',
    'cert': 'SSL_CERT_FILE',
    'client-cert': 'SSL_CLIENT_CERT',
    'timeout': 'UV_HTTP_TIMEOUT',
    'default-timeout': 'UV_HTTP_TIMEOUT',
    'proxy': 'ALL_PROXY',
}
# What would lead pip or uv past `.venv` or past the lock file.
ASTRAY = {
    *('PYTHONPATH', 'PYTHONHOME'),
    *('PIP_USER', 'PIP_TARGET', 'PIP_PREFIX', 'PIP_CONSTRAINT'),
    *('UV_PYTHON', 'UV_SYSTEM_PYTHON', 'UV_CONSTRAINT', 'UV_OVERRIDE', 'UV_EXCLUDE_NEWER'),
    *('UV_TORCH_BACKEND', 'UV_NO_BINARY', 'UV_PRERELEASE', 'UV_RESOLUTION', 'UV_NO_VERIFY_HASHES'),
}


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
            f'the disk is full (.venv in {places.ROOT}, the cache in {places.uv_cache()}): free '
            'some space, or call UV_CACHE_DIR=/path/on/another/disk make setup'
        )
    if re.search(r'Killed signal|internal compiler error: Killed', output):
        return 'the compiler ran out of memory: call MAX_JOBS=1 make setup MMCV=compiled'
    if re.search(
        r'Failed to establish a new connection|Temporary failure in name resolution|SSLError|'
        r'Network is unreachable|Connection refused|ReadTimeoutError|ProxyError|dns error|'
        r'tcp connect error|invalid peer certificate|timed out|error sending request',
        output,
    ):
        url = re.search(r'Failed to (?:fetch|download)\W+(\w+://[^\s`]+)', output)
        return (
            f'{url.group(1) if url else "the package index"} cannot be reached: check network, '
            'proxy and `pip config list`, then call make setup again'
        )
    for pattern, hint in (
        (r'No matching distribution found for .*', 'is the index a full mirror of PyPI?'),
        (r'there is no version of \S+', 'is the index a full mirror of PyPI?'),
        (r'ensurepip is not available', 'apt install python3-venv, then make setup'),
        (r'\S*:\d+:\d+: (?:fatal )?error: .*', 'mmcv does not compile with this compiler'),
        (r'(?:ModuleNotFound|Import)Error: .*', 'the environment is damaged: make clean setup'),
    ):
        found = re.search(pattern, output)
        if found:
            return f'{found.group(0).strip()}: {hint}'
    errors = re.findall(r'^\s*(?:ERROR|error|cause): (.+)', output, re.MULTILINE)
    return ': '.join(text.strip() for text in errors[:2]) if errors else fallback


def child_env(**extra):
    """The caller's environment without what would lead pip and uv astray."""
    env = {name: value for name, value in os.environ.items() if name not in ASTRAY}
    env.update(LC_ALL='C.UTF-8', PIP_NO_INPUT='1', PIP_DISABLE_PIP_VERSION_CHECK='1')
    env.update(extra)
    return env


def uv_env():
    """Variables that give uv the network settings of the user's pip, where uv has none itself."""
    # Hashes make it safe to take a file from whichever index has it, as pip does.
    env = {'UV_INDEX_STRATEGY': 'unsafe-best-match'}
    if ssl.create_default_context().cert_store_stats()['x509_ca']:
        env['UV_SYSTEM_CERTS'] = '1'
    listed = subprocess.run(
        [str(part) for part in pip('config', 'list')],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_env(),
    ).stdout.decode()
    sections = {'global': {}, 'install': {}, ':env:': {}}  # The later, the stronger.
    for section, name, value in re.findall(r'^([\w:]+)\.([\w.-]+)=(.*)$', listed, re.MULTILINE):
        if section in sections and name.lstrip('.') in PIP_TO_UV:
            words = ' '.join(str(ast.literal_eval(value)).split())
            sections[section][PIP_TO_UV[name.lstrip('.')]] = words
    for settings in sections.values():
        env.update(settings)
    return {name: value for name, value in env.items() if name not in os.environ}


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


def uv_pip(command, *arguments):
    """The command line of the environment's uv."""
    return [places.VENV / 'bin' / 'uv', 'pip', command, '--python', places.VENV_PYTHON, *arguments]


def downloads(output, elapsed):
    """Where uv stands in `output`: `12 of 36 large files downloaded`."""
    begun = len(re.findall(r'^Downloading ', output, re.MULTILINE))
    done = len(re.findall(r'^ Downloaded ', output, re.MULTILINE))
    return f'{done} of {begun} large files downloaded' if begun else 'looking at the index'
