"""Make the environment of a stack by uv, and ask it what it holds."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

from processes import LOCK, ROOT, VENV, SetupError, child_env, run, uv_env
from stacks import Stack

# Measured on Linux x86-64.
BYTES = 5.7e9
FOLDER = ROOT / '.matrix'
UV = VENV / 'bin' / 'uv'
# What `make setup` leaves out or puts in by its lock file.
LEFT_OUT = ('opencv-python',)
PUT_IN = ('opencv-python-headless',)
FACTS = """
import json, platform
from importlib import metadata
import mmvheat, mmcv._ext
versions = {d.metadata['Name'].lower(): d.version for d in metadata.distributions()}
kept = ('mm', 'numpy', 'onedl-', 'opencv', 'torch', 'triton')
print(json.dumps({
    'python': platform.python_version(),
    'mmcv': 'ours' if mmcv._ext.__file__.endswith('.py') else 'compiled',
    'packages': {k: v for k, v in sorted(versions.items()) if k.startswith(kept)},
}))
"""


def find_python(version: str) -> str:
    """The path of a Python that is on this machine, those of pyenv included.

    Raises:
        SetupError: There is none.
    """
    env = {'UV_PYTHON_DOWNLOADS': 'never'}
    if shutil.which('pyenv'):
        # Without it the commands of pyenv find only the versions that the user switched on.
        listed = subprocess.run(['pyenv', 'versions', '--bare'], capture_output=True, text=True)
        env['PYENV_VERSION'] = ':'.join(listed.stdout.split())
    found = subprocess.run(
        [str(UV), 'python', 'find', '--no-project', '--system', version],
        capture_output=True,
        text=True,
        env=child_env(**env),
    )
    if found.returncode:
        raise SetupError(f'no Python {version} on this machine')
    return found.stdout.strip()


def fingerprint(stack: Stack) -> str:
    """A digest of what the environment of a stack is made from."""
    needs = (ROOT / 'pyproject.toml').read_text().split('[tool.ruff]')[0]
    made_from = [dataclasses.asdict(stack), LOCK.read_text(), needs, str(ROOT)]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


def make(stack: Stack) -> Path:
    """Make the environment unless it is there; return its Python.

    Raises:
        SetupError: This machine cannot make it; the message says why.
    """
    folder = FOLDER / stack.name
    python, stamp = folder / 'bin' / 'python', folder / '.made'
    if stamp.exists() and stamp.read_text() == fingerprint(stack) and python.exists():
        return python
    base = find_python(stack.python)
    free = shutil.disk_usage(ROOT).free
    if free < BYTES:
        raise SetupError(f'{free / 1e9:.1f} GB free, but it takes {BYTES / 1e9:.1f} GB')
    shutil.rmtree(folder, ignore_errors=True)
    env = uv_env()
    run([UV, 'venv', '--no-project', '--python', base, folder], **env)
    install = [UV, 'pip', 'install', '--python', python]
    if stack.needs:
        without = folder / 'left-out.txt'
        without.write_text('\n'.join((*LEFT_OUT, *stack.instead)))
        project = [*PUT_IN, *stack.needs, '--editable', f'{ROOT}[dev]']
        run([*install, '--excludes', without, *project], **env)
    else:
        run([*install, '--no-deps', '--require-hashes', '-r', LOCK], **env)
        project = ['--no-deps', '--no-build-isolation', '--editable', ROOT]
        run([*install, *project], **env)
    stamp.write_text(fingerprint(stack))
    return python


def facts(python: Path) -> dict:
    """Python, packages and the kind of mmcv's functions of an environment.

    Raises:
        SetupError: The stack does not import.
    """
    command = [str(python), '-W', 'ignore', '-c', FACTS]
    asked = subprocess.run(command, capture_output=True, text=True, env=child_env(), cwd=ROOT)
    if asked.returncode:
        raise SetupError(f'mmvheat cannot be imported: {asked.stderr.strip().splitlines()[-1]}')
    return json.loads(asked.stdout.splitlines()[-1])
