"""The embedded data on disk: made once, reused while nothing about them changed."""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from .cache import MANIFEST, check_root, is_complete, locked, replaced, write_manifest
from .spec import GENERATOR_VERSION, NUM_TRAIN_DIGITS, NUM_VAL_DIGITS, DigitsSpec

__all__ = ['prepare_digits']


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
    path = check_root(root, ('cls', 'scenes', MANIFEST))
    if not force and is_complete(path, spec.fingerprint):
        return path

    # Imported late: a complete cache needs neither opencv nor scikit-learn.
    from .build import build_digits

    with locked(path):
        # Another process may have made them while this one waited.
        if force or not is_complete(path, spec.fingerprint):
            with replaced(path) as fresh:
                instances = build_digits(fresh, spec, progress)
                content = {
                    'version': GENERATOR_VERSION,
                    'fingerprint': spec.fingerprint,
                    'instances': instances,
                    'parameters': asdict(spec),
                }
                write_manifest(fresh, content)
    return path
