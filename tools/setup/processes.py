"""Run a command into the log: progress while it runs, one line when it fails."""

import ast
import contextlib
import functools
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / '.venv'
VENV_PYTHON = VENV / 'bin' / 'python'
LOG = VENV / 'setup.log'
LOCK = ROOT / 'tools' / 'setup' / 'lock.txt'
# Settings of pip that uv has under another name.
PIP_TO_UV = {
    'index-url': 'UV_DEFAULT_INDEX',
    'extra-index-url': 'UV_INDEX',
    'find-links': 'UV_FIND_LINKS',
    'trusted-host': 'UV_INSECURE_HOST',
    'cert': 'SSL_CERT_FILE',
    'timeout': 'UV_HTTP_TIMEOUT',
    'default-timeout': 'UV_HTTP_TIMEOUT',
    'proxy': 'ALL_PROXY',
}
# What would lead pip or uv past `.venv` or past the lock file.
ASTRAY = {
    *('PYTHONPATH', 'PYTHONHOME', 'PIP_USER', 'PIP_TARGET', 'PIP_PREFIX', 'PIP_CONSTRAINT'),
    *('UV_PYTHON', 'UV_SYSTEM_PYTHON', 'UV_CONSTRAINT', 'UV_OVERRIDE', 'UV_EXCLUDE_NEWER'),
    *('UV_TORCH_BACKEND', 'UV_NO_BINARY', 'UV_PRERELEASE', 'UV_RESOLUTION', 'UV_NO_VERIFY_HASHES'),
}
# What pip, uv and compilers say when they fail -> what to tell; `{}` stands for what was found.
FAILURES = {
    'No space left on device': 'the disk is full (of .venv or of the cache of uv): free some '
    'space, or call UV_CACHE_DIR=/path/on/another/disk make setup',
    'Killed signal|error: Killed': 'the compiler ran out of memory: call MAX_JOBS=1 make setup '
    'MMCV=compiled',
    'Failed to establish a new connection|Temporary failure in name resolution|SSLError|timed out|'
    'Network is unreachable|Connection refused|ReadTimeoutError|ProxyError|dns error|'
    'tcp connect error|invalid peer certificate|error sending request': '{url} cannot be reached: '
    'check network, proxy and `pip config list`, then call make setup again',
    r'No matching distribution found for .*|there is no version of \S+': '{}: is the index a full '
    'mirror of PyPI?',
    'ensurepip is not available': '{}: apt install python3-venv, then make setup',
    r'\S*:\d+:\d+: (?:fatal )?error: .*': '{}: mmcv does not compile with this compiler',
    '(?:ModuleNotFound|Import)Error: .*': '{}: the environment is damaged: make clean setup',
}


class SetupError(Exception):
    """What went wrong and what to do about it, in one line."""


def say(text):
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def clock(seconds):
    """Seconds as `m:ss`."""
    return '{}:{:02d}'.format(*divmod(int(seconds), 60))


def user_cache(name, variable):
    """A folder of the user's: what the variable names, else one in `~/.cache`."""
    own, home = os.environ.get(variable), os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(own or os.path.join(home, name)).expanduser()


def failure(output, fallback):
    """The one line of `output` that says why, with what to do where that is known."""
    for pattern, words in FAILURES.items():
        found = re.search(pattern, output)
        if found:
            url = re.search(r'Failed to (?:fetch|download)\W+(\w+://[^\s`]+)', output)
            return words.format(found[0].strip(), url=url[1] if url else 'the package index')
    errors = re.findall(r'^\s*(?:ERROR|error|cause): (.+)', output, re.MULTILINE)
    return ': '.join(text.strip() for text in errors[:2]) or fallback


def child_env(**extra):
    """The caller's environment without what would lead pip and uv astray."""
    env = {name: value for name, value in os.environ.items() if name not in ASTRAY}
    fixed = {'LC_ALL': 'C.UTF-8', 'PIP_NO_INPUT': '1', 'PIP_DISABLE_PIP_VERSION_CHECK': '1'}
    return {**env, **fixed, **extra}


@functools.lru_cache(None)
def uv_env():
    """Variables that give uv the network settings of the user's pip, where uv has none itself."""
    # Hashes make it safe to take a file from whichever index has it, as pip does. Where Python may
    # not write bytecode, as in many containers, every process would compile what it imports.
    env = {'UV_INDEX_STRATEGY': 'unsafe-best-match', 'UV_COMPILE_BYTECODE': '1'}
    if ssl.create_default_context().cert_store_stats()['x509_ca']:
        env['UV_SYSTEM_CERTS'] = '1'
    command = [str(VENV_PYTHON), '-m', 'pip', 'config', 'list']
    listed = subprocess.run(command, stdout=subprocess.PIPE, env=child_env()).stdout.decode()
    for section in ('global', 'install', ':env:'):  # The later, the stronger.
        for name, value in re.findall(rf'(?m)^{section}\.+([\w-]+)=(.*)$', listed):
            if name in PIP_TO_UV:  # uv takes several values with spaces between.
                env[PIP_TO_UV[name]] = ' '.join(str(ast.literal_eval(value)).split())
    return {name: value for name, value in env.items() if name not in os.environ}


def progress(output):
    """Where a command stands: its last line, cut to fit a terminal."""
    return (output.split('\n')[-2:-1] or ['working'])[0].strip()[:64]


def run(command, **env):
    """Run `command` into the log, showing progress; a failure becomes one line, a SetupError."""
    # A terminal has one line that is rewritten, anything else gets a line twice a minute.
    clear, end, every = ('\r\033[K', '', 0) if sys.stdout.isatty() else ('', '\n', 30)
    command = list(map(str, command))
    # Its own TMPDIR, because pip leaves its build folder behind when it is told to end.
    temporary = tempfile.TemporaryDirectory(prefix='mmvheat-setup-', ignore_cleanup_errors=True)
    with temporary as scratch, LOG.open('a+', errors='replace') as log:
        log.write('\n$ ' + ' '.join(command) + '\n')
        log.flush()
        begin, start, shown = log.tell(), time.monotonic(), 0
        # A session of its own: a signal to us is passed on to the whole family, compilers included.
        pipes = {'stdin': subprocess.DEVNULL, 'stdout': log, 'stderr': subprocess.STDOUT}
        env = child_env(TMPDIR=scratch, **env)
        child = subprocess.Popen(command, cwd=str(ROOT), env=env, start_new_session=True, **pipes)
        try:
            while child.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=0.5)
                log.seek(begin)
                elapsed, text = time.monotonic() - start, progress(log.read())
                if elapsed - shown >= every:
                    shown = elapsed
                    print(f'{clear}      {clock(elapsed)} {text}', end=end, flush=True)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            child.wait()
            raise
        finally:
            print(clear, end='', flush=True)
        if child.returncode:
            log.seek(begin)
            fallback = f'{Path(command[0]).name} stopped with status {child.returncode}'
            raise SetupError(f'{failure(log.read(), fallback)} (log: {LOG})')


def pip(*arguments, **env):
    """Run the environment's pip."""
    run([VENV_PYTHON, '-m', 'pip', *arguments], **env)


def uv_pip(command, *arguments):
    """Run the environment's uv, which takes packages as they are listed, without their needs."""
    options = ['--no-deps', *arguments] if command == 'install' else arguments
    run([VENV / 'bin' / 'uv', 'pip', command, '--python', VENV_PYTHON, *options], **uv_env())
