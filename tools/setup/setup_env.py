"""Make `.venv` with the tested stack, mmcv's compiled ops and this project in it.

`make setup` calls it; `python3.11 tools/setup/setup_env.py` does the same. It needs nothing but
the standard library and starts on any Python 3, so that a wrong one gets a clear line. A finished
set-up leaves a stamp, and later calls return at once until what it was made from changes. An
interrupted one goes on where it stopped. pip's output goes to `.venv/setup.log`.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / '.venv'
VENV_PYTHON = VENV / 'bin' / 'python'
LOG = VENV / 'setup.log'
STAMP = VENV / '.mmvheat-setup'
CONSTRAINTS = ROOT / 'tools' / 'setup' / 'constraints.txt'
PYPROJECT = ROOT / 'pyproject.toml'

PYTHON = (3, 11)
EXTRAS = 'dev'
GB = 10**9
# Measured on Linux x86-64: what each place holds at its fullest, in bytes.
VENV_BYTES = 6.0 * GB
TMP_BYTES = 2.5 * GB
BUILD_BYTES = 0.4 * GB
PIP_CACHE_BYTES = 2.5 * GB
CACHE_BYTES = 0.1 * GB
# A C++ file that includes torch's headers takes this much memory to compile.
BYTES_PER_JOB = 1.5 * GB

NINJA_LINE = re.compile(r'^\s*\[(\d+)/(\d+)\]', re.MULTILINE)
IMPORT_CHECK = 'import cv2, mmcv.ops, mmdet, mmpretrain, mmseg, torchvision'


class SetupError(Exception):
    """What went wrong and what to do about it, in one line."""


def say(text):
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def clock(seconds):
    """Seconds as `m:ss`."""
    return '{}:{:02d}'.format(*divmod(int(seconds), 60))


# What is here: Python, disk, compiler, GPU.


def check_python(version=sys.version_info, executable=sys.executable, platform=sys.platform):
    """Refuse a Python or a system the stack was not tested on."""
    if tuple(version[:2]) != PYTHON:
        raise SetupError(
            f'{executable} is Python {version[0]}.{version[1]}, but the tested stack needs Python '
            '3.11: install python3.11 (with its venv and dev packages) or call '
            'make PYTHON=/path/to/python3.11'
        )
    if not platform.startswith('linux'):
        raise SetupError(
            f'this is {platform}, but the tested stack is for Linux: make an environment by hand, '
            'with pip install -c tools/setup/constraints.txt'
        )


def tree_bytes(path):
    """Bytes that the files under `path` take."""
    return sum(
        os.lstat(os.path.join(folder, name)).st_size
        for folder, _, names in os.walk(str(path))
        for name in names
    )


def existing_parent(path):
    """The nearest folder above `path` that exists, or `path` itself."""
    path = Path(path)
    while not path.exists():
        path = path.parent
    return path


def disk_of(folder):
    """A number for the disk that `folder` lies on."""
    return os.stat(str(folder)).st_dev


def check_disk():
    """Refuse to start what the disk cannot hold, added up where places share a disk."""
    missing = max(1 - tree_bytes(VENV) / VENV_BYTES, 0)
    wanted = [
        (VENV, missing * VENV_BYTES, '.venv'),
        (Path(tempfile.gettempdir()), max(missing * TMP_BYTES, BUILD_BYTES), 'temporary files'),
        (user_cache() / 'pip', missing * PIP_CACHE_BYTES, "pip's cache"),
        (cache_dir(), CACHE_BYTES, 'the mmcv wheel'),
    ]
    by_disk = {}
    for path, size, what in wanted:
        folder = existing_parent(path)
        by_disk.setdefault(disk_of(folder), []).append((folder, size, what))
    for places in by_disk.values():
        folder, need = places[0][0], sum(size for _, size, _ in places)
        free = shutil.disk_usage(str(folder)).free
        if free < need:
            raise SetupError(
                f'{free / GB:.1f} GB free on the disk of {folder}, but the set-up needs '
                f'{need / GB:.1f} GB there ({", ".join(what for _, _, what in places)}): free some '
                'space, or point TMPDIR, XDG_CACHE_HOME or MMVHEAT_CACHE to another disk'
            )


def check_compiler():
    """Refuse to start mmcv's build without a C++17 compiler and Python's headers."""
    compiler = os.environ.get('CXX', 'c++').split()
    if not compiler or shutil.which(compiler[0]) is None:
        raise SetupError(
            f'no C++ compiler ({" ".join(compiler) or "CXX is empty"}) on the PATH, and mmcv is to '
            'be compiled: install one (Debian, Ubuntu: apt install g++; Fedora: dnf install '
            'gcc-c++)'
        )
    include = sysconfig.get_paths()['include']
    if not os.path.exists(os.path.join(include, 'Python.h')):
        raise SetupError(
            f"no Python.h in {include}, and mmcv has to be compiled: install Python's headers "
            '(Debian, Ubuntu: apt install python3.11-dev) or use a Python that has them'
        )
    probe = subprocess.run(
        [*compiler, '-std=c++17', '-fsyntax-only', '-I' + include, '-x', 'c++', '-'],
        input=b'#include <Python.h>\n#include <optional>\nint main() { std::optional<int> x; }\n',
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if probe.returncode:
        reason = next(iter(probe.stdout.decode(errors='replace').splitlines()), 'no message')
        raise SetupError(
            f'{compiler[0]} cannot compile C++17, which mmcv needs ({reason.strip()}): install g++ '
            '9 or newer, or name another compiler in CXX'
        )


def nvcc_release():
    """CUDA release of the toolkit, such as `13.0`, or None without a toolkit."""
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    nvcc = os.path.join(home, 'bin', 'nvcc') if home else shutil.which('nvcc')
    nvcc = nvcc or '/usr/local/cuda/bin/nvcc'
    if not os.path.exists(nvcc):
        return None
    text = subprocess.run([nvcc, '--version'], stdout=subprocess.PIPE).stdout.decode()
    match = re.search(r'release (\d+\.\d+)', text)
    return match.group(1) if match else None


def choose_ops():
    """`cu130` or the like where torch sees a GPU and the toolkit fits it, else `cpu`."""
    if shutil.which('nvidia-smi') is None:
        return 'cpu'
    query = 'import torch; print(torch.version.cuda if torch.cuda.is_available() else "")'
    done = subprocess.run([str(VENV_PYTHON), '-c', query], stdout=subprocess.PIPE, env=child_env())
    cuda = done.stdout.decode().strip()
    if not cuda:
        return 'cpu'
    toolkit = nvcc_release()
    if toolkit and toolkit.split('.')[0] == cuda.split('.')[0]:
        return 'cu' + cuda.replace('.', '')
    say(
        f'warning: torch sees a GPU, but there is no CUDA {cuda} toolkit '
        f'(nvcc: {toolkit or "none"}): mmcv gets CPU ops, so Mask R-CNN cannot run on the GPU'
    )
    return 'cpu'


# What the environment is made from.


def read_constraints(text):
    """Package name (lower case) -> pinned version."""
    lines = (line.split('#')[0].strip() for line in text.splitlines())
    pairs = (line.split('==') for line in lines if line)
    return {name.lower(): version for name, version in pairs}


def fingerprint():
    """A digest of all that decides what `.venv` holds; another one means another set-up."""
    import tomllib

    project = tomllib.loads(PYPROJECT.read_text())
    made_from = [
        CONSTRAINTS.read_text(),
        [project.get('build-system'), project.get('project'), project['tool'].get('setuptools')],
        Path(__file__).read_text(),
        list(PYTHON),
        EXTRAS,
        str(ROOT),
    ]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def is_current():
    """Whether a finished set-up left the stamp of this very state, and its Python still exists."""
    return STAMP.is_file() and STAMP.read_text() == fingerprint() and VENV_PYTHON.exists()


def user_cache():
    """The user's caches: `$XDG_CACHE_HOME`, else `~/.cache`."""
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()


def cache_dir():
    """The cache of wheels: in `$MMVHEAT_CACHE`, else with the user's other caches."""
    own = os.environ.get('MMVHEAT_CACHE')
    return (Path(own).expanduser() if own else user_cache() / 'mmvheat') / 'wheels'


def wheel_folder(pins, ops):
    """Where the mmcv wheel for this mmcv, torch, Python, platform and kind of ops is kept."""
    key = 'mmcv-{}_torch-{}_cp{}{}_{}_{}'.format(
        pins['mmcv'], pins['torch'], *PYTHON, sysconfig.get_platform(), ops
    )
    return cache_dir() / key


def cached_wheel(folder):
    """The whole wheel in `folder`, or None; a damaged one is removed."""
    for wheel in sorted(folder.glob('mmcv-*.whl')):
        with contextlib.suppress(zipfile.BadZipFile):
            if zipfile.ZipFile(str(wheel)).testzip() is None:
                return wheel
        wheel.unlink()
    return None


# Running things.


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


def compile_progress(output, elapsed):
    """Where ninja stands in `output`: `45 of 77 files compiled, about 3:20 left`."""
    steps = NINJA_LINE.findall(output)
    if not steps:
        return 'preparing the build'
    done, total = map(int, steps[-1])
    if done == total:
        return f'all {total} files compiled, packing the wheel'
    left = elapsed / done * (total - done)
    return f'{done} of {total} files compiled, about {clock(left)} left'


def failure(output, fallback):
    """The one line of `output` that says why, with what to do where that is known."""
    if 'No space left on device' in output:
        return (
            f'the disk is full (.venv in {ROOT}, temporary files in {tempfile.gettempdir()}): free '
            'some space, or point TMPDIR to another disk'
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


def run(command, describe=None, **env):
    """Run `command` into the log, showing progress; a failure becomes one line.

    Raises:
        SetupError: the command failed; the message holds the cause and the log's path.
    """
    progress = Progress()
    # Its own TMPDIR, because pip leaves its build folder behind when it is told to end.
    temporary = tempfile.TemporaryDirectory(prefix='mmvheat-setup-', ignore_cleanup_errors=True)
    with temporary as scratch, LOG.open('a+', errors='replace') as log:
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
            cwd=str(ROOT),
            start_new_session=True,
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = child.wait(timeout=0.5)
                    break
                elapsed = time.monotonic() - progress.start
                log.seek(begin)
                text = describe(log.read(), elapsed) if describe else 'working'
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
            raise SetupError(f'{reason} (log: {LOG})')


def pip(*arguments):
    """The command line of the environment's pip."""
    return [VENV_PYTHON, '-m', 'pip', *arguments]


# The steps.


def make_venv():
    """Make `.venv`, keep one that is half filled, replace one that cannot be used."""
    if VENV.is_symlink() or (VENV.exists() and not VENV.is_dir()):
        raise SetupError(f'{VENV} is not a folder of its own: move it away')
    if VENV.exists():
        config = VENV / 'pyvenv.cfg'
        if not config.exists() and any(path != LOG for path in VENV.iterdir()):
            raise SetupError(f'{VENV} is not a virtual environment: move it away')
        if is_usable():
            forget_unfinished()
            return
        say('      the .venv that is here cannot be used: making it anew')
        shutil.rmtree(str(VENV))
    VENV.mkdir()
    run([sys.executable, '-m', 'venv', VENV])


def is_usable():
    """Whether `.venv` was made in this place by the right Python and has a working pip."""
    activate = VENV / 'bin' / 'activate'
    if not (VENV_PYTHON.exists() and activate.exists() and str(VENV) in activate.read_text()):
        return False
    probe = f'import pip, sys; sys.exit(sys.version_info[:2] != {PYTHON})'
    command = [str(VENV_PYTHON), '-c', probe]
    return subprocess.run(command, stderr=subprocess.DEVNULL, env=child_env()).returncode == 0


def forget_unfinished():
    """Let pip install again what it was interrupted in: INSTALLER is the last thing it writes."""
    for info in VENV.glob('lib/python*/site-packages/*.dist-info'):
        if not (info / 'INSTALLER').exists():
            shutil.rmtree(str(info))


def build_jobs():
    """Compilers to run at once: one a core, as far as the memory goes."""
    memory = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return max(1, min(len(os.sched_getaffinity(0)), int(memory / BYTES_PER_JOB)))


def build_wheel(pins, ops):
    """Compile mmcv and put its wheel into the cache, whole or not at all."""
    check_compiler()
    folder = wheel_folder(pins, ops)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = os.environ.get('MAX_JOBS') or str(build_jobs())
    env = {'MMCV_WITH_OPS': '1', 'MAX_JOBS': jobs, 'FORCE_CUDA': '1'}
    if ops == 'cpu':
        env.update(FORCE_CUDA='0', CUDA_VISIBLE_DEVICES='')
    say(f'      compiling its {ops} ops, {jobs} files at a time: 8 to 10 min on two cores, once')
    with tempfile.TemporaryDirectory(dir=str(folder), prefix='building-') as building:
        # pip's own cache knows mmcv's version alone and would hand out a wheel of another torch.
        options = ['--no-deps', '--no-build-isolation', '--no-cache-dir', '--no-binary', 'mmcv']
        command = pip('wheel', '-v', *options, '-w', building, 'mmcv==' + pins['mmcv'])
        run(command, compile_progress, **env)
        (wheel,) = Path(building).glob('mmcv-*.whl')
        os.replace(str(wheel), str(folder / wheel.name))
    return folder / wheel.name


def mmcv_wheel(pins):
    """The cached wheel that fits this machine, built when there is none."""
    ops = choose_ops()
    for kind in dict.fromkeys([ops, 'cpu']):
        wheel = cached_wheel(wheel_folder(pins, kind))
        if wheel:
            say(f'      taking it from {wheel.parent}')
            return wheel
        try:
            return build_wheel(pins, kind)
        except SetupError as error:
            if kind == 'cpu':
                raise
            say(f'warning: no CUDA ops, Mask R-CNN cannot run on the GPU: {error}')


def file_digest(path):
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def installed_digest(name, version):
    """SHA-256 of the wheel that a package was installed from, as pip noted it, or None."""
    for note in VENV.glob(f'lib/python*/site-packages/{name}-{version}.dist-info/direct_url.json'):
        with contextlib.suppress(ValueError):
            return (
                json.loads(note.read_text()).get('archive_info', {}).get('hashes', {}).get('sha256')
            )
    return None


def check_imports(wheel):
    """Import the stack, which the project is not part of; a wheel that fails leaves the cache."""
    try:
        run([VENV_PYTHON, '-c', IMPORT_CHECK])
    except SetupError as error:
        if 'mmcv/_ext' in str(error):
            wheel.unlink()
            raise SetupError(f'{error}; its wheel was removed, call make setup again') from None
        raise


def set_up():
    """Go through the steps."""
    pins = read_constraints(CONSTRAINTS.read_text())
    check_disk()
    if cached_wheel(wheel_folder(pins, 'cpu')) is None:
        check_compiler()

    begin = time.monotonic()
    say(f'Setting up {VENV} (log: {LOG})')
    say('[1/5] virtual environment (5 s)')
    make_venv()
    with contextlib.suppress(FileNotFoundError):
        STAMP.unlink()

    say(f'[2/5] torch {pins["torch"]} from the package index, 5 GB unpacked (1 min on a fast line)')
    tools = ['torch', 'torchvision', 'setuptools', 'wheel', 'ninja', 'psutil']
    run(pip('install', '-c', CONSTRAINTS, *(f'{name}=={pins[name]}' for name in tools)))

    say(f'[3/5] mmcv {pins["mmcv"]} with its ops')
    wheel = mmcv_wheel(pins)
    # What runs from .venv meanwhile must not see its mmcv go for the same one to come.
    if installed_digest('mmcv', pins['mmcv']) != file_digest(wheel):
        run(pip('install', '--no-deps', '--force-reinstall', wheel))

    say('[4/5] mmdet, mmsegmentation, mmpretrain and what they need (40 s)')
    if list(VENV.glob('lib/python*/site-packages/opencv_python-*.dist-info')):
        # Both packages fill the same folder, so both go before the one we want comes.
        run(pip('uninstall', '-y', 'opencv-python', 'opencv-python-headless'))
    run(pip('install', '--no-deps', '-r', CONSTRAINTS))

    say('[5/5] mmvheat itself, then a check that the stack imports (15 s)')
    options = ['--no-deps', '--no-build-isolation', '--editable']
    run(pip('install', *options, f'{ROOT}[{EXTRAS}]'))
    check_imports(wheel)

    partial = STAMP.with_name(STAMP.name + '.partial')
    partial.write_text(fingerprint())
    os.replace(str(partial), str(STAMP))
    say(f'Done in {clock(time.monotonic() - begin)}.')


@contextlib.contextmanager
def alone():
    """Hold the project's folder, so that two set-ups at once become one after the other."""
    import fcntl

    folder = os.open(str(ROOT), os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('another set-up is running here: waiting for it')
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def interrupt(signum, frame):
    """Make a request to end look like Ctrl-C, so that children end too."""
    raise KeyboardInterrupt


def main():
    """Set up unless that is done; return the exit status."""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        check_python()
        with alone():
            if is_current():
                say(f'{VENV} is up to date')
            else:
                set_up()
        return 0
    except SetupError as error:
        message = str(error)
    except KeyboardInterrupt:
        message = 'interrupted: call make setup again, it goes on where it stopped'
    except OSError as error:
        message = f'{error}: the set-up could not go on'
    print(f'error: {message}', file=sys.stderr)
    return 2


if __name__ == '__main__':
    sys.exit(main())
