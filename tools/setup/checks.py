"""What the set-up asks of the machine: Python, disk, compiler, CUDA toolkit."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import places
from processes import SetupError, child_env, say

GB = 10**9
# Measured on Linux x86-64: what each place holds at its fullest, in bytes.
VENV_BYTES = 6.0 * GB
TMP_BYTES = 1.1 * GB
PIP_CACHE_BYTES = 2.5 * GB
WHEEL_CACHE_BYTES = 0.1 * GB


def check_python(version=sys.version_info, executable=sys.executable, platform=sys.platform):
    """Refuse a Python or a system the stack was not tested on."""
    if tuple(version[:2]) != places.PYTHON:
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


def shortage(wanted):
    """The first disk that lacks room, in words, or None.

    Args:
        wanted: tuples of a path, its bytes and its name; those on one disk are added up.
    """
    by_disk = {}
    for path, size, what in wanted:
        folder = existing_parent(path)
        by_disk.setdefault(disk_of(folder), []).append((folder, size, what))
    for parts in by_disk.values():
        folder, need = parts[0][0], sum(size for _, size, _ in parts)
        free = shutil.disk_usage(str(folder)).free
        if free < need:
            names = ', '.join(what for _, _, what in parts)
            return (
                f'{free / GB:.1f} GB free on the disk of {folder}, but the set-up needs '
                f'{need / GB:.1f} GB there ({names})'
            )
    return None


def check_disk():
    """Refuse to start what the disk cannot hold.

    Returns:
        bool: whether there is room for copies of the downloads in pip's cache, too.

    Raises:
        SetupError: there is no room even without them.
    """
    missing = max(1 - tree_bytes(places.VENV) / VENV_BYTES, 0)
    wanted = [
        (places.VENV, missing * VENV_BYTES, '.venv'),
        (Path(tempfile.gettempdir()), TMP_BYTES, 'temporary files'),
        (places.wheel_cache(), WHEEL_CACHE_BYTES, 'the mmcv wheel'),
    ]
    reason = shortage(wanted)
    if reason:
        raise SetupError(
            f'{reason}: free some space, or point TMPDIR or MMVHEAT_CACHE to another disk'
        )
    copies = (places.user_cache() / 'pip', missing * PIP_CACHE_BYTES, "pip's cache")
    return shortage([*wanted, copies]) is None


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
    command = [str(places.VENV_PYTHON), '-c', query]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=child_env())
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
