"""What the lock file pins, which of it is chosen, and what `.venv` has of it."""

import os
import re
import shutil

import places
from processes import SetupError

# A pinned package with its hashes: `name==version ; marker \`, then indented lines.
ENTRY = re.compile(r'^([\w.-]+)==(\S+).*\n(?:[ \t]+.*\n)*', re.MULTILINE)
CHOICES = {'MMCV': ('lite', 'compiled'), 'TORCH': ('pypi', 'cpu')}
TORCH = ('torch', 'torchvision')
FOR_GPUS = ('triton', 'nvidia-', 'cuda-')
# Packages that write into the same folder: one of each set may be there.
RIVALS = (
    {'mmcv', 'mmcv-lite', 'mmcv-full'},
    {'opencv' + kind for kind in ('-python', '-contrib-python')}
    | {'opencv' + kind + '-headless' for kind in ('-python', '-contrib-python')},
)


def choose():
    """Which MMCV and which TORCH to have: as the environment says, else as `.venv` has them.

    Raises:
        SetupError: a choice that there is not.
    """
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
    return {entry[1]: entry[2] for entry in ENTRY.finditer(places.LOCK.read_text())}


def locked(wanted):
    """The entries of the lock file, hashes and all, of the packages that are wanted."""
    entries = ENTRY.finditer(places.LOCK.read_text())
    return ''.join(entry[0] for entry in entries if wanted(entry[1]))


def takes(choice, name):
    """Whether a choice takes a package of the stack."""
    if name in RIVALS[0]:
        return name == {'lite': 'mmcv-lite', 'compiled': 'mmcv'}[choice['MMCV']]
    return choice['TORCH'] == 'pypi' or not name.startswith(FOR_GPUS)


def torch_version(choice, name):
    """The version of torch or torchvision that is chosen."""
    return pins()[name] + ('+cpu' if choice['TORCH'] == 'cpu' else '')


def notes_on(name, version='*'):
    """The folders in `.venv` that hold the notes on an installed package."""
    info = f'{name.replace("-", "_")}-{version}.dist-info'
    return list(places.VENV.glob(f'lib/python*/site-packages/{info}'))


def forget_unfinished():
    """Let a package be installed again whose installation was cut: RECORD is completed last."""
    for notes in notes_on('*'):
        record = notes / 'RECORD'
        if not record.exists() or 'dist-info/INSTALLER' not in record.read_text():
            shutil.rmtree(str(notes))


def in_the_way(choice):
    """The packages in `.venv` that must go before the chosen ones come."""
    stack = pins()
    names = [name for name in stack if not takes(choice, name)]
    for rivals in RIVALS:
        if any(notes_on(name) for name in rivals if name not in stack or not takes(choice, name)):
            # They share files, so the right one goes as well and comes back whole.
            names += sorted(rivals)
    if any(notes_on(name) and not notes_on(name, torch_version(choice, name)) for name in TORCH):
        names += TORCH
    return [name for name in dict.fromkeys(names) if notes_on(name)]
