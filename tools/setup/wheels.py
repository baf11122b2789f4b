"""MMCV=compiled: the mmcv wheel with its own ops, from the user's cache or compiled here, once."""

import contextlib
import os
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

from processes import VENV_PYTHON, SetupError, child_env, pip, say, user_cache

SOURCE = (
    'mmcv==2.1.0 --hash=sha256:d387bcab66b467479b6660310e23746cfc79c6e57acf04094680adb499a5cd3f\n'
)
# A C++ file that includes torch's headers takes this much memory to compile.
BYTES_PER_JOB = 1_500_000_000


def check_compiler():
    """Refuse to start the build without a C++17 compiler and Python's headers."""
    compiler = os.environ.get('CXX', 'c++').split() or ['c++']
    options = ['-std=c++17', '-fsyntax-only', '-I' + sysconfig.get_paths()['include']]
    source = b'#include <Python.h>\n#include <optional>\nint main() { std::optional<int> x; }'
    try:
        command = [*compiler, *options, '-x', 'c++', '-']
        subprocess.run(
            command, input=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
        )
        return
    except subprocess.CalledProcessError as error:
        reason = (error.output.decode(errors='replace').splitlines() or ['no message'])[0].strip()
    except OSError as error:
        reason = error.strerror
    raise SetupError(
        f"{compiler[0]} cannot compile C++17 with Python's headers, which mmcv needs ({reason}): "
        'install them (Debian, Ubuntu: apt install g++ python3-dev), name another compiler in CXX, '
        'or call make setup MMCV=lite, which compiles nothing'
    )


def choose_ops():
    """`cu130` or the like where torch sees a GPU, else `cpu`."""
    query = (
        'import torch; from torch.utils.cpp_extension import CUDA_HOME; '
        'print(torch.version.cuda if torch.cuda.is_available() else "", CUDA_HOME)'
    )
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.DEVNULL}
    answer = subprocess.run([str(VENV_PYTHON), '-c', query], env=child_env(), **pipes)
    cuda, _, toolkit = answer.stdout.decode().strip().rpartition(' ')
    if cuda and toolkit == 'None':
        raise SetupError(
            f'torch sees a GPU, but there is no CUDA {cuda} toolkit to compile mmcv with: install '
            'it, or call make setup MMCV=lite, whose ops run on the GPU without one'
        )
    return f'cu{cuda.replace(".", "")}' if cuda else 'cpu'


def wheel_folder(torch, ops):
    """Where the mmcv wheel for this mmcv, torch, Python, platform and kind of ops is kept."""
    cache, mmcv = user_cache('mmvheat', 'MMVHEAT_CACHE'), SOURCE.split()[0].replace('==', '-')
    python = 'cp{}{}'.format(*sys.version_info)
    return cache / 'wheels' / f'{mmcv}_torch-{torch}_{python}_{sysconfig.get_platform()}_{ops}'


def cached_wheel(folder):
    """The whole wheel in `folder`, or None; a damaged one is removed."""
    for wheel in sorted(folder.glob('mmcv-*.whl')):
        with contextlib.suppress(zipfile.BadZipFile):
            if zipfile.ZipFile(str(wheel)).testzip() is None:
                return wheel
        wheel.unlink()
    return None


def mmcv_wheel(torch):
    """The wheel for this machine and torch: from the cache, else compiled, whole or not at all."""
    ops = choose_ops()
    folder = wheel_folder(torch, ops)
    wheel = cached_wheel(folder)
    if wheel:
        say(f'      taking it from {folder}')
        return wheel
    check_compiler()
    folder.mkdir(parents=True, exist_ok=True)
    memory = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // BYTES_PER_JOB
    jobs = os.environ.get('MAX_JOBS') or str(max(1, min(len(os.sched_getaffinity(0)), memory)))
    env = {'MMCV_WITH_OPS': '1', 'MAX_JOBS': jobs, 'FORCE_CUDA': '0' if ops == 'cpu' else '1'}
    say(f'      compiling its {ops} ops, {jobs} files at a time: 8 to 10 min on two cores, once')
    with tempfile.TemporaryDirectory(dir=str(folder), prefix='building-') as building:
        source = Path(building, 'source.txt')
        source.write_text(SOURCE)
        # pip's own cache knows mmcv's version alone and would hand out a wheel of another torch.
        options = ['--no-deps', '--no-build-isolation', '--no-cache-dir', '--no-binary', 'mmcv']
        pip('wheel', '-v', *options, '-w', building, '-r', source, **env)
        (wheel,) = Path(building).glob('mmcv-*.whl')
        os.replace(str(wheel), str(folder / wheel.name))
    return folder / wheel.name
