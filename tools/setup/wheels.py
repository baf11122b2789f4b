"""The mmcv wheel with compiled ops: from the user's cache, built once where it is not there."""

import contextlib
import hashlib
import os
import re
import sysconfig
import tempfile
import zipfile
from pathlib import Path

import places
from checks import check_compiler, choose_ops
from processes import SetupError, clock, pip, run, say

# A C++ file that includes torch's headers takes this much memory to compile.
BYTES_PER_JOB = 1.5 * 10**9
NINJA_LINE = re.compile(r'^\s*\[(\d+)/(\d+)\]', re.MULTILINE)


def wheel_folder(pins, ops):
    """Where the mmcv wheel for this mmcv, torch, Python, platform and kind of ops is kept."""
    key = 'mmcv-{}_torch-{}_cp{}{}_{}_{}'.format(
        pins['mmcv'], pins['torch'], *places.PYTHON, sysconfig.get_platform(), ops
    )
    return places.wheel_cache() / key


def cached_wheel(folder):
    """The whole wheel in `folder`, or None; a damaged one is removed."""
    for wheel in sorted(folder.glob('mmcv-*.whl')):
        with contextlib.suppress(zipfile.BadZipFile):
            if zipfile.ZipFile(str(wheel)).testzip() is None:
                return wheel
        wheel.unlink()
    return None


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
