"""The lock file: in step with pyproject.toml, whole, with hashes, and for any index."""

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / 'tools' / 'setup' / 'lock.txt').read_text()
ENTRIES = TEXT[TEXT.index('\n', TEXT.index('make lock')) + 1 :].replace('\\\n', ' ').splitlines()
LOCKED = [Requirement(entry.partition('--hash')[0]) for entry in ENTRIES]


def pins(python: str) -> dict[str, str]:
    """Package -> version that the lock file gives on Linux and this Python."""
    where = {'python_full_version': python, 'python_version': python, 'sys_platform': 'linux'}
    chosen = [need for need in LOCKED if need.marker is None or need.marker.evaluate(where)]
    found = {need.name: str(need.specifier).removeprefix('==') for need in chosen}
    assert len(found) == len(chosen), 'two versions of one package'
    return found


def test_every_entry_has_hashes_and_no_address():
    assert len(ENTRIES) > 80
    for entry in ENTRIES:
        assert re.fullmatch(
            r"[\w.-]+==[\w.]+( ; [\w\s.<>=()']+)?(\s+--hash=sha256:[0-9a-f]{64})+", entry
        ), entry
    assert '://' not in TEXT


@pytest.mark.parametrize('python', ['3.10', '3.11', '3.12', '3.13'])
def test_one_opencv_and_one_mmcv(python):
    found = pins(python)
    assert {name for name in found if name.startswith('opencv')} == {'opencv-python-headless'}
    assert {name for name in found if name.startswith('mmcv')} == {'mmcv-lite'}
    assert {'torch', 'torchvision', 'numpy', 'uv'} <= set(found)


def needs(name: str, extras: list[str]):
    """What an installed package needs on this machine."""
    for text in metadata.requires(name) or []:
        need = Requirement(text)
        if need.marker is None or any(need.marker.evaluate({'extra': e}) for e in extras):
            yield need


def test_the_lock_is_the_whole_stack():
    """It is installed without asking for more, so nothing that pyproject.toml needs may lack."""
    tomllib = pytest.importorskip('tomllib')
    pytest.importorskip('uv', reason='not the locked stack')
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
    extras = project['project']['optional-dependencies']
    groups = [
        project['project']['dependencies'],
        *extras.values(),
        *project['dependency-groups'].values(),
    ]
    left = [need for group in groups for need in map(Requirement, group)]
    found = pins('{}.{}'.format(*sys.version_info))
    # opencv-python-headless takes the place of opencv-python, which mmengine names.
    known = {'mmvheat', 'opencv-python'}
    seen, misfits = set(), set()
    while left:
        need = left.pop()
        name = canonicalize_name(need.name)
        if name in known:
            continue
        if name not in found or not need.specifier.contains(found[name]):
            misfits.add(str(need))
        elif (name, str(need.extras)) not in seen:
            seen.add((name, str(need.extras)))
            left += needs(name, [*need.extras, ''])
    assert not misfits
    assert {name for name, _ in seen} == set(found)
