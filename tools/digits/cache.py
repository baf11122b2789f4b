"""Folders that are either complete or not there: checked, locked, and swapped in one step."""

import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmvheat.errors import UserError

__all__ = ['MANIFEST', 'check_root', 'is_complete', 'locked', 'replaced', 'write_manifest']

MANIFEST = 'manifest.json'


def check_root(root: str | os.PathLike[str], entries: tuple[str, ...]) -> Path:
    """Resolve a data folder and refuse one whose replacement would lose a person's files.

    Args:
        root: The folder; it need not exist.
        entries: Names that the data set puts at its top level.

    Returns:
        The folder, absolute and without symbolic links.

    Raises:
        UserError: If it is a file, or holds something that is not of the data set.
    """
    path = Path(root).resolve()
    if path.exists() and not path.is_dir():
        raise UserError(f'data root {os.fspath(root)!r} is a file, expected a folder')
    strangers = sorted({item.name for item in path.iterdir()} - {*entries} if path.exists() else ())
    if strangers:
        raise UserError(
            f'data root {os.fspath(root)!r} holds {strangers[0]!r}, which is not of this data set: '
            'name a new or empty folder'
        )
    return path


def is_complete(root: Path, fingerprint: str) -> bool:
    """Tell whether a folder holds all that was once written for this fingerprint.

    Args:
        root: The folder.
        fingerprint: Of the parameters wanted.

    Returns:
        Whether the manifest matches and every folder still has its files and bytes.
    """
    try:
        manifest = json.loads((root / MANIFEST).read_text())
        same = manifest['fingerprint'] == fingerprint
        return same and manifest['folders'] == _inventory(root)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_manifest(root: Path, content: dict[str, object]) -> None:
    """Write the manifest: `content` and the inventory of what lies in the folder.

    Args:
        root: The folder, otherwise finished.
        content: JSON-ready; ``fingerprint`` among it.
    """
    manifest = {**content, 'folders': _inventory(root)}
    (root / MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n')


def _inventory(root: Path) -> dict[str, list[int]]:
    """Count files and bytes of every folder below `root`."""
    inventory = {}
    for folder, folders, _ in os.walk(root):
        folders.sort()
        if folder != os.fspath(root):
            with os.scandir(folder) as entries:
                sizes = [entry.stat().st_size for entry in entries if entry.is_file()]
            inventory[os.path.relpath(folder, root)] = [len(sizes), sum(sizes)]
    return inventory


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Let one process at a time make a folder; the others wait (a dead one's lock is free).

    Args:
        root: The folder; its parent is made.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    with open(root.parent / f'.{root.name}.lock', 'w') as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def replaced(root: Path) -> Iterator[Path]:
    """Build a folder aside and swap it in when the block ends; an exception leaves the old one.

    What killed processes left of their attempts is removed first, so hold the lock.

    Args:
        root: The folder to make or replace.

    Yields:
        An empty folder on the same file system.
    """
    for leftover in root.parent.glob(f'.{glob.escape(root.name)}.*.tmp'):
        shutil.rmtree(leftover)
    names = {'prefix': f'.{root.name}.', 'suffix': '.tmp'}
    with tempfile.TemporaryDirectory(dir=root.parent, **names) as work:
        fresh, old = Path(work, 'fresh'), Path(work, 'old')
        fresh.mkdir()
        yield fresh
        if root.exists():
            root.rename(old)
        try:
            fresh.rename(root)
        except OSError:
            if old.exists():
                old.rename(root)
            raise
