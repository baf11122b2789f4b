"""The pinned packages: what the constraints name and what `.venv` has of it."""

import contextlib
import json
import shutil

import places
from processes import Progress, pip, run

# torch, its compiler and its CUDA libraries: 90 percent of what is downloaded.
LARGE = ('torch', 'triton', 'nvidia-', 'cuda-')


def read_constraints(text):
    """Package name (lower case) -> pinned version."""
    lines = (line.split('#')[0].strip() for line in text.splitlines())
    pairs = (line.split('==') for line in lines if line)
    return {name.lower(): version for name, version in pairs}


def notes_on(name, version='*'):
    """The folders in `.venv` in which pip keeps its notes on a package, by its normalised name."""
    info = f'{name.replace("-", "_")}-{version}.dist-info'
    return list(places.VENV.glob(f'lib/python*/site-packages/{info}'))


def installed_digest(name, version):
    """SHA-256 of the wheel that a package was installed from, as pip noted it, or None."""
    for notes in notes_on(name, version):
        with contextlib.suppress(OSError, ValueError):
            url = json.loads((notes / 'direct_url.json').read_text())
            return url.get('archive_info', {}).get('hashes', {}).get('sha256')
    return None


def forget_unfinished():
    """Let pip install again what it was interrupted in: INSTALLER is the last thing it writes."""
    for notes in notes_on('*'):
        if not (notes / 'INSTALLER').exists():
            shutil.rmtree(str(notes))


def install_large(pins):
    """Install the large packages one at a time: pip holds all wheels of a call on the disk."""
    names = [name for name in pins if name.startswith(LARGE) and not notes_on(name, pins[name])]
    progress = Progress()
    for number, name in enumerate(names, 1):
        words = f'{name}, package {number} of {len(names)}'
        run(pip('install', '--no-deps', f'{name}=={pins[name]}'), words, progress)
