"""The scenes of stamps on disk: made once, complete or not there, as the digits'."""

import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from digits.prepare import make_once, needed_packages

from .spec import GENERATOR_VERSION, LICENSE, STAMPS, StampsSpec, find_stamps, split_stamps

__all__ = ['prepare_stamps']


def prepare_stamps(
    root: str | os.PathLike[str],
    source: str | os.PathLike[str] = STAMPS,
    spec: StampsSpec | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Make images of photographic stamps, unless `root` already holds exactly these.

    Training and validation share no object::

        cls/{train,val}/<class>/*.png               64 x 64 RGB, for classification
        scenes/{train,val}/images/*.png             128 x 128 RGB
        scenes/{train,val}/masks/*.png              ADE20K-style: 0 void, 1 ground, 2 + class
        scenes/annotations/instances_{train,val}.json   COCO
        LICENSE.txt                                 of the stamps, and so of the images
        manifest.json                               fingerprint, parameters, files and bytes

    Args:
        root: The folder to make, e.g. ``data/stamps``.
        source: The folder ``stamps`` of Tux Paint.
        spec: What to make; the usual if None.
        force: Make them even if they are there.
        progress: Called with images done and images in all, after each.

    Returns:
        The folder, absolute.

    Raises:
        UserError: If the stamps are not there or damaged, `root` is a file or holds other things,
            or a package is missing.
        OSError: If `root` cannot be written.
    """
    spec = spec or StampsSpec()
    stamps = find_stamps(source)

    def build(folder: Path) -> dict[str, object]:
        with needed_packages('the scenes of stamps'):
            from digits.build import Plan
            from digits.build import build as build_plan

            from .drawing import compose_stamps, portray_stamp
        splits = split_stamps(stamps)
        plan = Plan(
            names=tuple(stamps),
            scene_size=spec.scene.scene_size,
            things={split: len(found) for split, found in splits.items()},
            renders={'train': spec.train_renders, 'val': spec.val_renders},
            scenes={'train': spec.num_train_scenes, 'val': spec.num_val_scenes},
            portray=partial(portray_stamp, splits, spec),
            compose=partial(compose_stamps, splits, spec),
        )
        instances = build_plan(folder, plan, progress)
        (folder / 'LICENSE.txt').write_text(LICENSE)
        return {
            'version': GENERATOR_VERSION,
            'instances': instances,
            'stamps': {
                split: [path.relative_to(source).as_posix() for _, path in found]
                for split, found in splits.items()
            },
            'parameters': asdict(spec),
        }

    return make_once(root, ('cls', 'scenes', 'LICENSE.txt'), spec.fingerprint(stamps), build, force)
