"""Look at the stack as it is: what works, and for what does not, the command that mends it.

Usage: python -m mmvheat.doctor [--task classification detection segmentation export demo]

Only the standard library is needed: what is examined may be missing or broken.
"""

import argparse
import contextlib
import io
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType

from .arguments import OneLineParser

__all__ = ['TASKS', 'main']

TASKS = ('classification', 'detection', 'segmentation', 'export', 'demo')
ROOT = Path(__file__).resolve().parents[2]
GB = 10**9
# Modules that are not named like their package.
_MODULES = {
    'mmcv-lite': 'mmcv',
    'mmsegmentation': 'mmseg',
    'pillow': 'PIL',
    'scikit-learn': 'sklearn',
}
# Packages that serve in the place of another: another mmcv, maintained forks.
_IN_PLACE = {
    'mmcv-lite': ('mmcv', 'onedl-mmcv'),
    'mmdet': ('onedl-mmdetection',),
    'mmengine': ('onedl-mmengine',),
    'mmpretrain': ('onedl-mmpretrain',),
    'mmsegmentation': ('onedl-mmsegmentation',),
}
OK, ODD, BAD = 'ok', 'warning', 'FAILED'


@dataclass
class Finding:
    """What was found of one part of the stack.

    Attributes:
        part: Its name.
        found: What is there, in words.
        state: ``OK``, ``ODD`` if it works with a drawback, ``BAD`` if it does not.
        remedy: The command that mends it; '' if there is nothing to mend.
    """

    part: str
    found: str
    state: str = OK
    remedy: str = ''


def main(argv: Sequence[str] | None = None) -> int:
    """Examine the stack and print a table.

    Args:
        argv: Arguments; the process's own if None.

    Returns:
        The exit status: 1 if a task that was asked for cannot run; without ``--task``, if the
        backbone cannot.
    """
    parser = OneLineParser(
        prog='python -m mmvheat.doctor',
        description='Say what of the stack works, and for what does not, the command that mends '
        'it. The exit status is 1 if a task cannot run.',
    )
    parser.add_argument(
        '--task',
        nargs='+',
        choices=TASKS,
        default=[],
        metavar='TASK',
        help=f'what must run: {", ".join(TASKS)} (the backbone alone; all are looked at)',
    )
    args = parser.parse_args(argv)
    print('Looking at the stack, for about 20 seconds ...', flush=True)
    findings, broken = _examine(args)
    _print(findings)
    for task, parts in broken.items():
        print(f'{task} cannot run: {", ".join(parts)}' if parts else f'{task} can run')
    return int(any(broken[task] for task in args.task or ['the backbone']))


def _examine(args: argparse.Namespace) -> tuple[list[Finding], dict[str, list[str]]]:
    """Look at all parts; give the findings, and for each task its parts that do not work."""
    needs = {'the backbone': _requirements('')}
    needs |= {task: _requirements(task) for task in args.task or TASKS}
    findings = [_python(), _project()]
    for name in dict.fromkeys(name for wanted in needs.values() for name in wanted):
        window = next(wanted[name] for wanted in needs.values() if name in wanted)
        if name == 'setuptools' or name.startswith('mmvheat'):
            continue
        findings.append(_package(name, window))
    # mmengine needs any one of several opencvs.
    findings += [_opencv(), _registry(), _device(), _disk(), _memory()]
    bad = [finding.part for finding in findings if finding.state == BAD]
    packages = {name for wanted in needs.values() for name in wanted}
    return findings, {
        task: [part for part in bad if part in wanted or part not in packages]
        for task, wanted in needs.items()
    }


def _requirements(extra: str) -> dict[str, str]:
    """Package -> versions that this project needs for an extra, by its own metadata."""
    try:
        texts = metadata.requires('mmvheat') or []
        from packaging.requirements import Requirement
    except (metadata.PackageNotFoundError, ImportError):
        return {'torch': '', 'mmengine': ''}  # Nothing says more.
    found = {}
    for need in map(Requirement, texts):
        if need.marker is not None and not need.marker.evaluate({'extra': extra}):
            continue
        if need.name == 'mmvheat':
            for other in sorted(need.extras):
                found |= _requirements(other)
        else:
            found[need.name] = str(need.specifier)
    return found


def _python() -> Finding:
    version = '.'.join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] == (3, 11):
        return Finding('Python', version)
    return Finding('Python', f'{version}; the stack is tested most on 3.11', ODD)


def _project() -> Finding:
    try:
        return Finding('mmvheat', metadata.version('mmvheat'))
    except metadata.PackageNotFoundError:
        found = 'is not installed, so which versions it needs is unknown'
        return Finding('mmvheat', found, ODD, _mend('pip install .'))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what libraries say on import out of the table."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        with contextlib.redirect_stderr(io.StringIO()):
            yield


def _mend(command: str, broken: bool = False) -> str:
    """The command that mends the environment: the project's own in its ``.venv``, else pip's."""
    if Path(sys.prefix) == ROOT / '.venv':
        return 'make clean setup' if broken else 'make setup'
    return command


def _package(name: str, window: str) -> Finding:
    """Look whether a package is there, in its versions, and can be imported."""
    install = _mend(f"pip install '{name}{window}'")
    for package in (name, *_IN_PLACE.get(name, ())):
        with contextlib.suppress(metadata.PackageNotFoundError):
            version = metadata.version(package)
            break
    else:
        return Finding(name, 'is not installed', BAD, install)
    found = version if package == name else f'{package} {version}'
    if not _fits(version, window) and not package.startswith('onedl-'):
        return Finding(name, f'{found} is not {window}', BAD, install)
    module = _MODULES.get(name, name.replace('-', '_'))
    try:
        with _quiet():
            imported = import_module(module)
            more = _MORE.get(name, lambda _: '')(imported)
    except Exception as error:
        again = _mend(f"pip install --force-reinstall '{name}{window}'", broken=True)
        reason = f'{type(error).__name__}: {_one_line(error)}'
        return Finding(name, f'{found} does not work: {reason}', BAD, again)
    state = OK if package in (name, 'mmcv') else ODD
    return Finding(name, found + more, state)


def _fits(version: str, window: str) -> bool:
    if not window:
        return True
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(window).contains(version, prereleases=True)


def _one_line(error: Exception) -> str:
    text = ' '.join(str(error).split())
    return text if len(text) <= 160 else text[:157] + '...'


def _torch(torch: ModuleType) -> str:
    torch.ones(2).sum()
    return f', built for CUDA {torch.version.cuda}' if torch.version.cuda else ', built for CPUs'


def _torchvision(torchvision: ModuleType) -> str:
    import torch

    torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    return ''


def _mmcv(mmcv: ModuleType) -> str:
    """Say whose functions mmcv has, and try two of them."""
    import torch
    from mmcv.ops import nms, roi_align

    from mmvheat.mmcv_ops import ext

    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    nms(boxes, torch.ones(1), 0.5)
    roi_align(torch.ones(1, 1, 4, 4), torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]]), 2)
    if Path(sys.modules['mmcv._ext'].__file__) != Path(ext.__file__):
        return ', its own compiled functions'
    return (
        f', {len(ext.FUNCTIONS)} functions by mmvheat.mmcv_ops '
        f'({len(ext.MISSING)} others: make setup MMCV=compiled)'
    )


def _models(library: ModuleType) -> str:
    """Import the models, which need most of what a library needs."""
    import_module(f'{library.__name__}.models')
    return ''


# What to try of a package, beyond its import.
_MORE: dict[str, Callable[[ModuleType], str]] = {
    'mmdet': _models,
    'mmpretrain': _models,
    'mmsegmentation': _models,
    'torch': _torch,
    'torchvision': _torchvision,
    'mmcv-lite': _mmcv,
}


def _opencv() -> Finding:
    kinds = [
        name
        for name in ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python')
        if list(metadata.distributions(name=name))
    ]
    found = ' and '.join(kinds) or 'opencv'
    headless = (
        'pip uninstall -y opencv-python opencv-contrib-python && '
        'pip install --force-reinstall --no-deps opencv-python-headless'
    )
    try:
        with _quiet():
            import cv2
    except Exception as error:
        return Finding('opencv', f'{found}: {_one_line(error)}', BAD, _mend(headless))
    if len(kinds) > 1:
        return Finding('opencv', f'{found} share a folder', ODD, _mend(headless))
    return Finding('opencv', f'{found} {cv2.__version__}')


def _registry() -> Finding:
    """Build a small backbone by its name in a config, and run it."""
    try:
        with _quiet():
            import torch
            from mmengine.registry import MODELS

            arch = dict(depths=(1, 1), dims=4)
            model = MODELS.build(dict(type='mmvheat.VHeat', arch=arch, out_indices=1))
            model(torch.zeros(1, 3, 32, 32))
    except Exception as error:
        reason = f'{type(error).__name__}: {_one_line(error)}'
        remedy = _mend('pip install --force-reinstall .', broken=True)
        return Finding('registry', f'mmvheat.VHeat does not run: {reason}', BAD, remedy)
    return Finding('registry', 'mmvheat.VHeat resolves and runs')


def _device() -> Finding:
    try:
        import torch

        if torch.cuda.is_available():
            names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
            torch.ones(2, device='cuda').sum()
            return Finding('device', f'GPU: {", ".join(names)}')
    except Exception as error:
        return Finding('device', f'none: {type(error).__name__}: {_one_line(error)}', ODD)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    found = f'CPU, {cores} cores'
    if os.environ.get('CUDA_VISIBLE_DEVICES') in ('', '-1'):
        return Finding('device', f'{found} (CUDA_VISIBLE_DEVICES hides GPUs)')
    if shutil.which('nvidia-smi') is None:
        return Finding('device', f'{found}; no GPU')
    text = f'{found}; nvidia-smi is there, but torch (CUDA {torch.version.cuda}) sees no GPU'
    return Finding('device', text, ODD, 'nvidia-smi  # is the driver new enough?')


def _disk() -> Finding:
    free = shutil.disk_usage('.').free
    found = f'{free / GB:.1f} GB free here'
    return Finding('disk', found) if free > GB else Finding('disk', found, ODD, 'df -h .')


def _memory() -> Finding:
    """What the machine has free, or its container's limit, where that is less."""
    try:
        lines = dict(line.split(':') for line in Path('/proc/meminfo').read_text().splitlines())
        free = 1024 * int(lines['MemAvailable'].split()[0])
        limit = Path('/sys/fs/cgroup/memory.max')
        if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
            used = int(Path('/sys/fs/cgroup/memory.current').read_text())
            free = min(free, int(text) - used)
    except (OSError, ValueError, KeyError):
        return Finding('memory', 'unknown on this system')
    found = f'{free / GB:.1f} GB free'
    return Finding('memory', found) if free > 2 * GB else Finding('memory', found, ODD, 'free -h')


def _print(findings: list[Finding]) -> None:
    """Print a table, by rich where that can be imported."""
    rows = [(one.state, one.part, one.found, one.remedy) for one in findings]
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except Exception:
        for state, part, found, remedy in rows:
            print(f'{state:8} {part:13} {found}' + (f'  -> {remedy}' if remedy else ''))
        return
    colours = {OK: 'green', ODD: 'yellow', BAD: 'bold red'}
    table = Table('', 'part', 'found', 'mend it by', box=None, pad_edge=False)
    for state, part, found, remedy in rows:
        table.add_row(Text(state, colours[state]), part, Text(found), Text(remedy))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000  # Lines are for other programs: they are not broken.
    console.print(table)
