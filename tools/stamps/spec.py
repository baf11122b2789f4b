"""Which stamps are taken, as which class and for which split, and how scenes are made of them."""

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from digits.spec import SceneStyle, TextureStyle

from mmvheat.errors import UserError

__all__ = [
    'CLASSES',
    'GENERATOR_VERSION',
    'LICENSE',
    'STAMPS',
    'StampsSpec',
    'find_stamps',
    'object_of',
    'split_stamps',
]

GENERATOR_VERSION = 1
"""Raise it whenever the same specification would give other pixels: cached data are then remade."""

STAMPS = '/usr/share/tuxpaint/stamps'
"""Where the Debian package tuxpaint-stamps-default puts its files."""

LICENSE = """\
Made of stamps of Tux Paint, (C) 2002-2022 Bill Kendrick and others, GNU General Public License,
version 2: https://tuxpaint.org, /usr/share/doc/tuxpaint-stamps-default/copyright. What is made of
them is under the same license.
"""

# Photographs are the PNG files; drawings are SVG files, lie in a folder `cartoon`, or are named
# below.
CLASSES: Mapping[str, tuple[str, ...]] = {
    'bird': ('animals/birds/*.png',),
    'mammal': ('animals/mammals/*.png', 'animals/marsupials/*.png'),
    'food': ('food/fruit/*.png', 'food/vegetables/*.png', 'food/nuts/*.png', 'food/spices/*.png'),
    'flower': ('plants/flowers/*.png',),
    'household': ('household/*.png', 'hobbies/*.png'),
}
# Toys, drawings, a silhouette, a stamp of 15 pixels, a glass that one sees through.
_LEFT_OUT = (
    '*/cartoon/*', '*/toys/*', 'animals/mammals/hedgehog.png', 'animals/mammals/echidna.png',
    'food/nuts/walnut_shelled.png', 'household/dishes/glass.png', '*_mirror.png',
)  # fmt: skip
_VAL_SHARE = 0.3


@dataclass(frozen=True)
class StampsSpec:
    """Everything that the images depend on, beside the stamps.

    Args:
        seed: Seed of every random choice, >= 0.
        num_train_scenes: Composed scenes for training, >= 1.
        num_val_scenes: Composed scenes for validation, >= 1.
        train_renders: Classification images of each training stamp, >= 1.
        val_renders: Classification images of each validation stamp, >= 1.
        rotation: Bounds of a stamp's rotation, in degrees.
        texture: How the ground is drawn: of any brightness, as stamps are.
        scene: How stamps are composed; heights are of the longer side.

    Raises:
        UserError: If a seed or count is not an integer or out of its range.
    """

    seed: int = 0
    num_train_scenes: int = 2400
    num_val_scenes: int = 300
    train_renders: int = 40
    val_renders: int = 10
    rotation: tuple[float, float] = (-15.0, 15.0)
    texture: TextureStyle = field(
        default_factory=lambda: TextureStyle(
            luma=(20.0, 220.0), contrast=(8.0, 30.0), strokes=(0.0, 3.0), stroke_luma=(20.0, 230.0)
        )
    )
    scene: SceneStyle = field(
        default_factory=lambda: SceneStyle(
            portrait_height=(30.0, 62.0), scene_digits=(2, 5), scene_height=(22.0, 64.0)
        )
    )

    def __post_init__(self) -> None:
        for name, least in (('seed', 0), ('num_train_scenes', 1), ('num_val_scenes', 1),
                            ('train_renders', 1), ('val_renders', 1)):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f'{name} must be an integer of at least {least}, got {value!r}')

    def fingerprint(self, stamps: Mapping[str, list[Path]]) -> str:
        """SHA-256 (hex) of the generator's version, the parameters, and the stamps' sizes."""
        files = {
            label: [(path.name, path.stat().st_size) for path in paths]
            for label, paths in stamps.items()
        }
        content = {'version': GENERATOR_VERSION, 'stamps': files, **asdict(self)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def find_stamps(source: str | os.PathLike[str]) -> dict[str, list[Path]]:
    """Find the photographic stamps of every class.

    Args:
        source: The folder ``stamps`` of Tux Paint.

    Returns:
        Files by class, sorted.

    Raises:
        UserError: If a class has none.
    """
    root = Path(source)
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob('*.png'))
    # `*` of fnmatch goes across folders.
    files = [name for name in files if not any(fnmatch(name, out) for out in _LEFT_OUT)]
    found = {
        label: [root / name for name in files if any(fnmatch(name, one) for one in patterns)]
        for label, patterns in CLASSES.items()
    }
    empty = [label for label, paths in found.items() if not paths]
    if empty:
        raise UserError(
            f'no stamps of {", ".join(empty)} in {os.fspath(source)!r}: install the Debian package '
            'tuxpaint-stamps-default, or unpack it (apt-get download tuxpaint-stamps-default; '
            'dpkg -x tuxpaint-stamps-default_*.deb DIR) and give '
            '--source DIR/usr/share/tuxpaint/stamps'
        )
    return found


def object_of(path: Path) -> str:
    """Name what a stamp shows, to keep stamps of one object in one split.

    It is the first word of the file's name: ``lion`` of ``lion-2``, ``apple`` of ``apple_red``.
    """
    return re.split(r'[-_\d]', path.stem.lower(), maxsplit=1)[0]


def split_stamps(stamps: Mapping[str, list[Path]]) -> dict[str, list[tuple[int, Path]]]:
    """Split the stamps by object, the same way whatever the seed.

    Args:
        stamps: Files by class.

    Returns:
        Label and file of all of ``'train'`` and ``'val'``; no object is in both.

    Raises:
        UserError: If a class has fewer than two objects.
    """
    splits: dict[str, list[tuple[int, Path]]] = {'train': [], 'val': []}
    for label, (name, paths) in enumerate(stamps.items()):
        groups = defaultdict(list)
        for path in paths:
            groups[object_of(path)].append(path)
        if len(groups) < 2:
            raise UserError(
                f'{name} has stamps of one object alone, {next(iter(groups))!r}: a split needs two'
            )
        # In an order that the alphabet does not decide.
        order = sorted(groups, key=lambda group: hashlib.sha256(group.encode()).digest())
        wanted, taken = _VAL_SHARE * len(paths), 0
        for place, group in enumerate(order):
            is_last = place + 1 == len(order)
            room = taken == 0 or taken + len(groups[group]) <= wanted + 0.5
            split = 'val' if taken < wanted and room and not (is_last and taken == 0) else 'train'
            taken += len(groups[group]) * (split == 'val')
            splits[split].extend((label, path) for path in groups[group])
        if not any(one == label for one, _ in splits['train']):
            raise UserError(f'{name} has no stamp left for training')
    return splits
