"""What the tests of the configs for a user's own data share."""

import re
from pathlib import Path

from digits import prepare_digits

__all__ = [
    'CONFIGS',
    'DATA',
    'EDIT',
    'ROOT',
    'config_path',
    'edited',
    'first_block',
    'make_digits',
]

ROOT = Path(__file__).parents[1]
CONFIGS = {
    'classification': 'vheat-tiny_imagefolder',
    'detection': 'mask-rcnn_vheat-t_fpn_coco-folder',
    'segmentation': 'vheat-t_upernet_image-mask-folders',
}
# Where the configs expect the embedded digits.
DATA = Path('data/digits')
EDIT, FOLLOWS = '# What you edit\n', '\n# What follows from it\n'


def config_path(library: str) -> Path:
    """Where the config for a library's layout is."""
    return ROOT / 'configs' / 'own_data' / f'{CONFIGS[library]}.py'


def make_digits(folder: Path) -> None:
    """Make few of the embedded digits, where the configs expect all."""
    few = dict(num_train_scenes=4, num_val_scenes=2, num_train_digits=20, num_val_digits=30)
    prepare_digits(folder / DATA, **few, train_renders=1, val_renders=1)


def edited(library: str, **changes: object) -> str:
    """Copy a config, as the page says, with other values in its first block."""
    text = config_path(library).read_text().replace("'../", f"'{ROOT}/configs/")
    block = first_block(library)
    for name, value in changes.items():
        block, found = re.subn(rf'^{name} = .*$', f'{name} = {value!r}', block, flags=re.MULTILINE)
        assert found == 1
    return text[: text.index(EDIT)] + EDIT + block + text[text.index(FOLLOWS) :]


def first_block(library: str) -> str:
    """Return the lines of a config that a user edits."""
    text = config_path(library).read_text()
    return text[text.index(EDIT) + len(EDIT) : text.index(FOLLOWS)]
