"""The pinned packages: they are the whole stack, and an interrupted install is done again."""

import re
from importlib import metadata
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def packages(scripts):
    return scripts('packages')


@pytest.fixture
def site(places):
    """Make notes of installed packages: `site(name, files)`."""

    def install(name, files):
        notes = places.VENV / 'lib' / 'python3.11' / 'site-packages' / f'{name}.dist-info'
        notes.mkdir(parents=True)
        for file in files:
            (notes / file).touch()
        return notes

    return install


def test_interrupted_installs_are_forgotten(packages, site):
    whole = site('whole-1', ['METADATA', 'INSTALLER'])
    site('cut-1', [])
    packages.forget_unfinished()
    assert list(whole.parent.iterdir()) == [whole]


def test_digest_of_an_installed_wheel(packages, site):
    assert packages.installed_digest('mmcv', '2.1.0') is None
    note = site('mmcv-2.1.0', []) / 'direct_url.json'
    assert packages.installed_digest('mmcv', '2.1.0') is None
    note.write_text('{"archive_info": {"hashes": {"sha256": "ab12"}}}')
    assert packages.installed_digest('mmcv', '2.1.0') == 'ab12'


def requirements(name, extras):
    """What an installed package needs on this machine."""
    for text in metadata.requires(name) or []:
        need = Requirement(text)
        if need.marker is None or any(need.marker.evaluate({'extra': e}) for e in extras):
            yield need


def test_constraints_are_the_whole_stack(packages, places):
    """`make setup` installs the constraints without asking pip for more, so nothing may lack."""
    pins = packages.read_constraints(places.CONSTRAINTS.read_text())
    assert all(re.fullmatch(r'[\w.]+', version) for version in pins.values())
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    groups = [project['dependencies'], *project['optional-dependencies'].values()]
    left = [need for group in groups for need in map(Requirement, group)]
    # opencv-python-headless takes the place of opencv-python, which mmengine names.
    known = {'mmvheat', 'opencv-python'}
    seen, misfits = set(), set()
    while left:
        need = left.pop()
        name = canonicalize_name(need.name)
        if name in known:
            continue
        if name not in pins or not need.specifier.contains(pins[name]):
            misfits.add(str(need))
        elif (name, str(need.extras)) not in seen:
            seen.add((name, str(need.extras)))
            left += requirements(name, [*need.extras, ''])
    assert not misfits
    assert {'torch', 'mmcv', 'pillow'} <= {name for name, _ in seen}
