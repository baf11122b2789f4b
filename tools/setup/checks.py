"""What the set-up asks of the machine: Python and disk."""

import os
import shutil
import sys

import places
from processes import SetupError

GB = 10**9
# Measured on Linux x86-64, with room for what Python adds when it imports.
VENV_BYTES = {'pypi': 5.7 * GB, 'cpu': 2.2 * GB}


def check_python(version=sys.version_info, executable=sys.executable, platform=sys.platform):
    """Refuse a Python or a system that the lock file does not hold for."""
    if not (3, 10) <= tuple(version[:2]) <= (3, 13):
        raise SetupError(
            f'{executable} is Python {version[0]}.{version[1]}, but the stack needs Python 3.11 '
            '(3.10, 3.12 and 3.13 install, too): make setup PYTHON=/path/to/python3.11'
        )
    if not platform.startswith('linux'):
        raise SetupError(
            f'this is {platform}, but the stack is locked for Linux: make an environment by hand, '
            "with pip install -e '.[demo]'"
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
    while not path.exists():
        path = path.parent
    return path


def check_disk(choice):
    """Refuse to start what the disk cannot hold; what earlier calls left there counts."""
    disks = set()
    # On one disk `.venv` gets hard links to what lies in the cache.
    for place in (places.uv_cache(), places.VENV):
        folder = existing_parent(place)
        free, need = shutil.disk_usage(str(folder)).free, VENV_BYTES[choice['TORCH']]
        if os.stat(str(folder)).st_dev in disks or free >= need:
            continue
        disks.add(os.stat(str(folder)).st_dev)
        need -= tree_bytes(place)
        if free < need:
            raise SetupError(
                f'{free / GB:.1f} GB free on the disk of {folder}, but {place} needs '
                f'{need / GB:.1f} GB more: free some space, or put the cache elsewhere and try '
                'again: UV_CACHE_DIR=/path/on/another/disk make setup'
            )
