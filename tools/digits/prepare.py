"""The embedded data on disk: made once, complete or not there, reused while nothing changed."""

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock

from mmvheat.errors import UserError

from .spec import GENERATOR_VERSION, NUM_TRAIN_DIGITS, NUM_VAL_DIGITS, DigitsSpec

__all__ = ['make_once', 'needed_packages', 'prepare_digits']

MANIFEST = 'manifest.json'


def prepare_digits(
    root: str | os.PathLike[str],
    seed: int = 0,
    num_train_scenes: int = 2400,
    num_val_scenes: int = 300,
    num_train_digits: int = NUM_TRAIN_DIGITS,
    num_val_digits: int = NUM_VAL_DIGITS,
    train_renders: int = 8,
    val_renders: int = 2,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Make the embedded digits, unless `root` already holds exactly these.

    All come from scikit-learn's ``load_digits``; training and validation share no digit::

        cls/{train,val}/<digit>/*.png               64 x 64 RGB, for classification
        scenes/{train,val}/images/*.png             128 x 128 RGB
        scenes/{train,val}/masks/*.png              ADE20K-style: 0 void, 1 ground, 2 + digit
        scenes/annotations/instances_{train,val}.json   COCO
        manifest.json                               fingerprint, parameters, files and bytes

    The folder appears at once, when it is finished: whatever interrupts the making leaves the old
    one, or none.

    Args:
        root: The folder to make, e.g. ``data/digits``.
        seed: Seed of every random choice, >= 0.
        num_train_scenes: Composed scenes for training, >= 1.
        num_val_scenes: Composed scenes for validation, >= 1.
        num_train_digits: Training digits used, 1 to 1347.
        num_val_digits: Validation digits used, 1 to 450.
        train_renders: Classification images of each training digit, >= 1.
        val_renders: Classification images of each validation digit, >= 1.
        force: Make them even if they are there.
        progress: Called with images done and images in all, after each.

    Returns:
        The folder, absolute.

    Raises:
        UserError: If a seed or count is not an integer or out of range, `root` is a file or holds
            other things, or opencv, scikit-learn or pycocotools is missing.
        OSError: If `root` cannot be written.
    """
    spec = DigitsSpec(
        seed=seed,
        num_train_scenes=num_train_scenes,
        num_val_scenes=num_val_scenes,
        num_train_digits=num_train_digits,
        num_val_digits=num_val_digits,
        train_renders=train_renders,
        val_renders=val_renders,
    )

    def build(folder: Path) -> dict[str, object]:
        # Imported late: a complete cache needs neither opencv nor scikit-learn.
        with needed_packages('the embedded digits'):
            from .build import build_digits
        return {
            'version': GENERATOR_VERSION,
            'instances': build_digits(folder, spec, progress),
            'parameters': asdict(spec),
        }

    return make_once(root, ('cls', 'scenes'), spec.fingerprint, build, force)


@contextmanager
def needed_packages(what: str) -> Iterator[None]:
    """Explain imports of other packages that fail.

    Args:
        what: What needs them.

    Raises:
        UserError: If one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name.startswith(('digits', 'stamps')):
            raise  # Ours: nothing that a user can mend.
        raise UserError(
            f'{what} need {error.name!r}, which is not installed: pip install "mmvheat[demo]"'
        ) from error


def make_once(
    root: str | os.PathLike[str],
    entries: tuple[str, ...],
    fingerprint: str,
    build: Callable[[Path], dict[str, object]],
    force: bool = False,
) -> Path:
    """Make a data folder unless it is there, complete and of these parameters.

    Args:
        root: The folder.
        entries: Names that the data set puts at its top level, beside the manifest.
        fingerprint: Of all that its bytes depend on.
        build: Fills an empty folder; returns what the manifest says of it.
        force: Make it even if it is there.

    Returns:
        The folder, absolute.

    Raises:
        UserError: If `root` is a file or holds other things.
        OSError: If it cannot be written.
    """
    path = check_root(root, (*entries, MANIFEST))
    if not force and is_complete(path, fingerprint):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # The others wait; a lock of a process that is dead is free.
    with FileLock(path.parent / f'.{path.name}.lock'):
        # Another process may have made them while this one waited.
        if force or not is_complete(path, fingerprint):
            with replaced(path) as fresh:
                content = build(fresh)
                write_manifest(fresh, {'fingerprint': fingerprint, **content})
    return path


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
