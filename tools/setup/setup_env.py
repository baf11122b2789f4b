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
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import places
from checks import check_compiler, check_disk, check_python
from packages import (
    forget_unfinished,
    install_large,
    installed_digest,
    notes_on,
    read_constraints,
)
from processes import SetupError, child_env, clock, pip, run, say
from wheels import cached_wheel, file_digest, mmcv_wheel, wheel_folder

EXTRAS = 'dev'
IMPORT_CHECK = 'import cv2, mmcv.ops, mmdet, mmpretrain, mmseg, torchvision'


def fingerprint():
    """A digest of all that decides what `.venv` holds; another one means another set-up."""
    import tomllib

    project = tomllib.loads(places.PYPROJECT.read_text())
    made_from = [
        places.CONSTRAINTS.read_text(),
        [project.get('build-system'), project.get('project'), project['tool'].get('setuptools')],
        [path.read_text() for path in sorted(Path(__file__).parent.glob('*.py'))],
        list(places.PYTHON),
        EXTRAS,
        str(places.ROOT),
    ]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def is_current():
    """Whether a finished set-up left the stamp of this very state, and its Python still exists."""
    stamp = places.STAMP
    return stamp.is_file() and stamp.read_text() == fingerprint() and places.VENV_PYTHON.exists()


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
    run([sys.executable, '-m', 'venv', places.VENV])


def is_usable():
    """Whether `.venv` was made in this place by the right Python and has a working pip."""
    activate = places.VENV / 'bin' / 'activate'
    if not (places.VENV_PYTHON.exists() and activate.exists()):
        return False
    if str(places.VENV) not in activate.read_text():
        return False
    probe = f'import pip, sys; sys.exit(sys.version_info[:2] != {places.PYTHON})'
    command = [str(places.VENV_PYTHON), '-c', probe]
    return subprocess.run(command, stderr=subprocess.DEVNULL, env=child_env()).returncode == 0


def check_imports(wheel):
    """Import the stack, which the project is not part of; a wheel that fails leaves the cache."""
    try:
        run([places.VENV_PYTHON, '-c', IMPORT_CHECK])
    except SetupError as error:
        if 'mmcv/_ext' in str(error):
            wheel.unlink()
            raise SetupError(f'{error}; its wheel was removed, call make setup again') from None
        raise


def set_up():
    """Go through the steps."""
    pins = read_constraints(places.CONSTRAINTS.read_text())
    if not check_disk():
        os.environ['PIP_NO_CACHE_DIR'] = '1'
        say("too little disk for pip's cache: pip keeps no copies of what it downloads")
    if cached_wheel(wheel_folder(pins, 'cpu')) is None:
        check_compiler()

    begin = time.monotonic()
    say(f'Setting up {places.VENV} (log: {places.LOG})')
    say('[1/5] virtual environment (5 s)')
    make_venv()
    with contextlib.suppress(FileNotFoundError):
        places.STAMP.unlink()

    say(f'[2/5] torch {pins["torch"]} from the package index, 5 GB unpacked (1 min on a fast line)')
    install_large(pins)
    tools = ['torch', 'torchvision', 'setuptools', 'wheel', 'ninja', 'psutil']
    run(pip('install', '-c', places.CONSTRAINTS, *(f'{name}=={pins[name]}' for name in tools)))

    say(f'[3/5] mmcv {pins["mmcv"]} with its ops')
    wheel = mmcv_wheel(pins)
    # What runs from .venv meanwhile must not see its mmcv go for the same one to come.
    if installed_digest('mmcv', pins['mmcv']) != file_digest(wheel):
        run(pip('install', '--no-deps', '--force-reinstall', wheel))

    say('[4/5] mmdet, mmsegmentation, mmpretrain and what they need (40 s)')
    if notes_on('opencv-python'):
        # Both packages fill the same folder, so both go before the one we want comes.
        run(pip('uninstall', '-y', 'opencv-python', 'opencv-python-headless'))
    run(pip('install', '--no-deps', '-r', places.CONSTRAINTS))

    say('[5/5] mmvheat itself, then a check that the stack imports (15 s)')
    options = ['--no-deps', '--no-build-isolation', '--editable']
    run(pip('install', *options, f'{places.ROOT}[{EXTRAS}]'))
    check_imports(wheel)

    partial = places.STAMP.with_name(places.STAMP.name + '.partial')
    partial.write_text(fingerprint())
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
            if is_current():
                say(f'{places.VENV} is up to date')
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
