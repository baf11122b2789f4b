"""Make `.venv` with the locked stack and this project in it, by uv: `make setup` calls it.

It starts on any Python 3 with its standard library, so that a wrong one gets a clear line. A stamp
says what a finished set-up was made from; until that changes, later calls return at once.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import wheels
from packages import TORCH, choose, forget_unfinished, in_the_way, locked, notes_on, pins, takes
from processes import LOG, ROOT, VENV, VENV_PYTHON, SetupError, pip, run, say, user_cache, uv_pip

STAMP = VENV / '.mmvheat-setup'
# Measured on Linux x86-64, with room for what Python adds when it imports.
GB = {'pypi': 6.5, 'cpu': 3.0}
CPU_INDEX = 'https://download.pytorch.org/whl/cpu'
IMPORT_CHECK = 'import mmvheat, cv2, mmcv.ops, mmdet, mmpretrain, mmseg, torchvision'


def check_python(version=sys.version_info, executable=sys.executable, platform=sys.platform):
    """Refuse a Python or a system that the lock file does not hold for."""
    if not (3, 10) <= tuple(version[:2]) <= (3, 13):
        raise SetupError(
            f'{executable} is Python {version[0]}.{version[1]}, but the stack needs Python 3.11 '
            '(3.10, 3.12 and 3.13 install, too): make setup PYTHON=/path/to/python3.11'
        )
    if not platform.startswith('linux'):
        raise SetupError(
            f"this is {platform}, but the stack is locked for Linux: use pip install -e '.[demo]'"
        )


def check_disk(choice):
    """Refuse to start what the disk cannot hold; what earlier calls left there counts."""
    disks = {}  # On one disk `.venv` gets hard links to what lies in the cache.
    for place in (VENV, user_cache('uv', 'UV_CACHE_DIR')):
        folder = next(path for path in (place, *place.absolute().parents) if path.exists())
        disks[folder.stat().st_dev] = (place, folder)
    for place, folder in disks.values():
        free, need = shutil.disk_usage(str(folder)).free / 1e9, GB[choice['TORCH']]
        if free < need:
            need -= sum(path.lstat().st_size for path in place.rglob('*')) / 1e9
        if free < need:
            raise SetupError(
                f'{free:.1f} GB free on the disk of {folder}, {place} needs {need:.1f} GB more: '
                'free some space, or call UV_CACHE_DIR=/path/on/another/disk make setup'
            )


def fingerprint(choice):
    """A digest of all that decides what `.venv` holds; another one means another set-up."""
    # What tools read from pyproject.toml comes last there and changes nothing.
    project = (ROOT / 'pyproject.toml').read_text().split('[tool.ruff]')[0]
    files = [path.read_text() for path in sorted(Path(__file__).parent.glob('[!.]*.*'))]
    made_from = [project, files, str(ROOT), choice, sys.version_info[:2]]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def is_usable():
    """Whether `.venv` was made in this place by this Python and has a working pip."""
    activate = VENV / 'bin' / 'activate'
    if VENV_PYTHON.exists() and activate.exists() and str(VENV) in activate.read_text():
        probe = f'import pip, sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})'
        with contextlib.suppress(SetupError):
            run([VENV_PYTHON, '-c', probe])
            return True
    return False


def make_venv():
    """Make `.venv`, keep one that is half filled, replace one that cannot be used."""
    mark = VENV / 'pyvenv.cfg'
    foreign = not mark.exists() and set(VENV.glob('*')) - {LOG}
    if VENV.is_symlink() or VENV.is_file() or foreign:
        raise SetupError(f'{VENV} is not a virtual environment: move it away')
    if not is_usable():
        VENV.mkdir(exist_ok=True)
        mark.touch()  # venv writes it late: cut off before that, the folder would seem foreign.
        for path in set(VENV.glob('*')) - {mark}:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(str(path))
            else:
                path.unlink()
        # Not sys.executable, which may be that of the folder that just went.
        run([getattr(sys, '_base_executable', sys.executable), '-m', 'venv', VENV])


def set_up(choice):
    """Go through the steps."""
    compiled, cpu = choice['MMCV'] == 'compiled', choice['TORCH'] == 'cpu'
    torch = pins()['torch'] + '+cpu' * cpu
    check_disk(choice)
    if compiled and wheels.cached_wheel(wheels.wheel_folder(torch, 'cpu')) is None:
        wheels.check_compiler()

    begin, steps = time.monotonic(), 4 if compiled else 3
    say(f'Setting up {VENV} (log: {LOG})')
    say(f'[1/{steps}] virtual environment and uv (10 s)')
    make_venv()
    forget_unfinished()
    if not (VENV / 'bin' / 'uv').exists() or not notes_on('uv', pins()['uv']):
        pip('install', '--no-deps', '--force-reinstall', *locked(['uv']))
    cpu_torch = ['--index', CPU_INDEX, *(f'{name}=={pins()[name]}+cpu' for name in TORCH)]
    if cpu:  # Where the index lacks them, nothing changes.
        uv_pip('install', '--dry-run', *cpu_torch)
    with contextlib.suppress(FileNotFoundError):
        STAMP.unlink()

    size = '0.5' if cpu else '3.1'
    say(f'[2/{steps}] torch {torch} and the stack: {size} GB to download, if uv has it not yet')
    if in_the_way(choice):
        uv_pip('uninstall', *in_the_way(choice))
    if cpu:
        uv_pip('install', *cpu_torch)
    rest = [name for name in pins() if takes(choice, name) and not (cpu and name in TORCH)]
    uv_pip('install', *locked(rest))
    if compiled:
        say(f'[3/{steps}] mmcv with its own ops')
        # uv leaves one from this very wheel alone: what runs from .venv meanwhile may go on.
        uv_pip('install', wheels.mmcv_wheel(torch))

    say(f'[{steps}/{steps}] mmvheat itself, then a check that the stack imports (20 s)')
    uv_pip('install', '--no-build-isolation', '--editable', ROOT)
    run([VENV_PYTHON, '-c', IMPORT_CHECK])
    STAMP.write_text(fingerprint(choice))
    say(f'Done in {time.monotonic() - begin:.0f} s.')


def wait_for_others():
    """Hold the project's folder until the end, so that two set-ups come one after the other."""
    import fcntl  # Not on every system.

    folder = os.open(str(ROOT), os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say('another set-up is running here: waiting for it')
        fcntl.flock(folder, fcntl.LOCK_EX)


def main():
    """Set up unless that is done; return the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Like Ctrl-C.
    try:
        check_python()
        wait_for_others()
        choice = choose()
        done = STAMP.is_file() and STAMP.read_text() == fingerprint(choice)
        if done and VENV_PYTHON.exists():
            say(f'{VENV} is up to date')
        else:
            set_up(choice)
        return 0
    except SetupError as error:
        message = str(error)
    except KeyboardInterrupt:
        message = 'interrupted: give the same command again, it goes on where it stopped'
    except OSError as error:
        message = f'{error}: mend that, or call make clean setup'
    print(f'error: {message}', file=sys.stderr)
    return 2


if __name__ == '__main__':
    sys.exit(main())
