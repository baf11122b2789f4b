"""What the lock file pins, which of it is chosen, and what `.venv` has of it."""

import os
import re
import shutil

from processes import LOCK, VENV, SetupError

# A pinned package with its hashes: `name==version ; marker \`, then indented lines.
ENTRY = re.compile(r'^([\w.-]+)==(\S+).*\n(?:[ \t]+.*\n)*', re.MULTILINE)
CHOICES = {'MMCV': ('lite', 'compiled'), 'TORCH': ('pypi', 'cpu')}
MMCV = {'lite': 'mmcv-lite', 'compiled': 'mmcv'}
TORCH = ('torch', 'torchvision')
FOR_GPUS = ('triton', 'nvidia-', 'cuda-')


def choose():
    """Which MMCV and TORCH to have: as the environment says, else as `.venv` has them."""
    held = {
        'MMCV': 'compiled' if notes_on('mmcv', pins()['mmcv-lite']) else 'lite',
        'TORCH': 'cpu' if notes_on('torch', '*+cpu') else 'pypi',
    }
    choice = {name: os.environ.get(name) or held[name] for name in CHOICES}
    for name, value in choice.items():
        if value not in CHOICES[name]:
            expected = ' or '.join(f'{name}={one}' for one in CHOICES[name])
            raise SetupError(f'{name}={value} is unknown: expected {expected}')
    return choice


def pins():
    """Package -> version in the lock file, for the newest Python where they differ."""
    return {entry[1]: entry[2] for entry in ENTRY.finditer(LOCK.read_text())}


def locked(names):
    """The arguments that install packages of the lock file, each with its hash compared."""
    part = VENV / 'lock.txt'
    entries = ENTRY.finditer(LOCK.read_text())
    part.write_text(''.join(entry[0] for entry in entries if entry[1] in names))
    return ['--require-hashes', '-r', part]


def takes(choice, name):
    """Whether a choice takes a package of the stack."""
    if name in MMCV.values():
        return name == MMCV[choice['MMCV']]
    return choice['TORCH'] == 'pypi' or not name.startswith(FOR_GPUS)


def notes_on(name, version='*'):
    """The folders in `.venv` that hold the notes on an installed package."""
    info = f'{name.replace("-", "_")}-{version}.dist-info'
    return list(VENV.glob(f'lib/python*/site-packages/{info}'))


def forget_unfinished():
    """Let a package be installed again whose installation was cut: RECORD is completed last."""
    for notes in notes_on('*'):
        record = notes / 'RECORD'
        if not record.exists() or 'dist-info/INSTALLER' not in record.read_text():
            shutil.rmtree(str(notes))


def in_the_way(choice):
    """The packages in `.venv` that must go before the chosen ones come."""
    installed = {notes.name.split('-')[0].replace('_', '-') for notes in notes_on('*')}
    wanted = {name for name in (*pins(), 'mmcv') if takes(choice, name)}
    going = set(pins()) - wanted
    for kind in ('mmcv', 'opencv'):  # They share files, so the right one goes and comes back whole.
        rivals = {name for name in installed if name.startswith(kind)}
        going |= rivals if rivals - wanted else set()
    if choice['TORCH'] == 'pypi':  # uv would take 2.11.0+cpu for 2.11.0.
        going.update(name for name in TORCH if notes_on(name, '*+cpu'))
    return sorted(going & installed)
