"""Make `.venv` with the locked stack and this project in it, by uv.

`make setup` calls it; `python3.11 tools/setup/setup_env.py` does the same. It needs nothing but
the standard library and starts on any Python 3, so that a wrong one gets a clear line. A finished
set-up leaves a stamp, and later calls return at once until what it was made from changes. An
interrupted one goes on where it stopped. What pip and uv say goes to `.venv/setup.log`.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import places
from checks import check_disk, check_python
from packages import (
    TORCH,
    choose,
    forget_unfinished,
    in_the_way,
    locked,
    notes_on,
    pins,
    takes,
    torch_version,
)
from processes import SetupError, child_env, clock, downloads, pip, run, say, uv_env, uv_pip
from wheels import cached_wheel, check_compiler, is_installed, mmcv_wheel, wheel_folder

CPU_INDEX = 'https://download.pytorch.org/whl/cpu'
IMPORT_CHECK = 'import mmvheat, cv2, mmcv.ops, mmdet, mmpretrain, mmseg, torchvision'


def fingerprint(choice):
    """A digest of all that decides what `.venv` holds; another one means another set-up."""
    # What tools read from pyproject.toml comes last there and changes nothing.
    project = places.PYPROJECT.read_text().split('[tool.ruff]')[0]
    scripts = [path.read_text() for path in sorted(Path(__file__).parent.glob('*.py'))]
    made_from = [places.LOCK.read_text(), project, scripts, str(places.ROOT), choice]
    made_from += sys.version_info[:2]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def is_current(choice):
    """Whether a finished set-up left the stamp of this very state, and its Python still exists."""
    stamp = places.STAMP
    made = stamp.is_file() and stamp.read_text() == fingerprint(choice)
    return made and places.VENV_PYTHON.exists()


def make_venv():
    """Make `.venv`, keep one that is half filled, replace one that cannot be used."""
    if places.VENV.is_symlink() or (places.VENV.exists() and not places.VENV.is_dir()):
        raise SetupError(f'{places.VENV} is not a folder of its own: move it away')
    if places.VENV.exists():
        config = places.VENV / 'pyvenv.cfg'
        if not config.exists() and any(path != places.LOG for path in places.VENV.iterdir()):
            raise SetupError(f'{places.VENV} is not a virtual environment: move it away')
        if is_usable():
            forget_unfinished()
            return
        say('      the .venv that is here cannot be used: making it anew')
        shutil.rmtree(str(places.VENV))
    places.VENV.mkdir()
    # Not sys.executable, which may be that of the folder that just went.
    run([getattr(sys, '_base_executable', sys.executable), '-m', 'venv', places.VENV])


def is_usable():
    """Whether `.venv` was made in this place by this Python and has a working pip."""
    activate = places.VENV / 'bin' / 'activate'
    if not (places.VENV_PYTHON.exists() and activate.exists()):
        return False
    if str(places.VENV) not in activate.read_text():
        return False
    probe = f'import pip, sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})'
    command = [str(places.VENV_PYTHON), '-c', probe]
    return subprocess.run(command, stderr=subprocess.DEVNULL, env=child_env()).returncode == 0


def install_locked(installer, wanted, words, *options, **env):
    """Install packages of the lock file, each with its hash compared."""
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder, 'lock.txt')
        part.write_text(locked(wanted))
        command = installer('install', '--no-deps', '--require-hashes', *options, '-r', part)
        run(command, words, **env)


def set_up(choice):
    """Go through the steps."""
    compiled, cpu = choice['MMCV'] == 'compiled', choice['TORCH'] == 'cpu'
    torch = torch_version(choice, 'torch')
    check_disk(choice)
    if compiled and cached_wheel(wheel_folder(torch, 'cpu')) is None:
        check_compiler()

    begin = time.monotonic()
    say(f'Setting up {places.VENV} (log: {places.LOG})')
    steps = 4 if compiled else 3
    say(f'[1/{steps}] virtual environment and uv (10 s)')
    make_venv()
    if not (places.VENV / 'bin' / 'uv').exists() or not notes_on('uv', pins()['uv']):
        install_locked(pip, lambda name: name == 'uv', 'working', '--force-reinstall')
    env = uv_env()
    from_cpu_index = ['--no-deps', '--index', CPU_INDEX]
    from_cpu_index += [f'{name}=={torch_version(choice, name)}' for name in TORCH]
    if cpu:
        run(uv_pip('install', '--dry-run', *from_cpu_index), **env)
    with contextlib.suppress(FileNotFoundError):
        places.STAMP.unlink()

    size = '0.3' if cpu else '2.9'
    say(f'[2/{steps}] torch {torch} and the stack: {size} GB to download, if uv has it not yet')
    leaving = in_the_way(choice)
    if leaving:
        run(uv_pip('uninstall', *leaving))
    if cpu:
        run(uv_pip('install', *from_cpu_index), downloads, **env)
    install_locked(
        uv_pip, lambda name: takes(choice, name) and not (cpu and name in TORCH), downloads, **env
    )

    if compiled:
        say(f'[3/{steps}] mmcv with its own ops')
        wheel = mmcv_wheel(torch)
        # What runs from .venv meanwhile must not see its mmcv go for the same one to come.
        if not is_installed(wheel):
            run(pip('install', '--no-deps', '--force-reinstall', wheel))

    say(f'[{steps}/{steps}] mmvheat itself, then a check that the stack imports (20 s)')
    run(uv_pip('install', '--no-deps', '--no-build-isolation', '--editable', places.ROOT), **env)
    run([places.VENV_PYTHON, '-c', IMPORT_CHECK])

    partial = places.STAMP.with_name(places.STAMP.name + '.partial')
    partial.write_text(fingerprint(choice))
    os.replace(str(partial), str(places.STAMP))
    say(f'Done in {clock(time.monotonic() - begin)}.')


@contextlib.contextmanager
def alone():
    """Hold the project's folder, so that two set-ups at once become one after the other."""
    import fcntl

    folder = os.open(str(places.ROOT), os.O_RDONLY)
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
            choice = choose()
            if is_current(choice):
                say(f'{places.VENV} is up to date')
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
