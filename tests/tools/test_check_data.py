"""tools/check_data.py: what it counts, and one line with both sides when they differ."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from in_process import load_script
from own_data import CONFIGS, DATA, edited, make_digits

from mmvheat.cli.command import run_command

DIGITS = list('0123456789')


@pytest.fixture(scope='module')
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('digits')
    make_digits(root)
    return root


@pytest.fixture
def here(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a copy of these digits."""
    shutil.copytree(digits / DATA, tmp_path / DATA)
    monkeypatch.chdir(tmp_path)


def _check(library: str, capsys: pytest.CaptureFixture, **changes: object) -> tuple[int, str, str]:
    Path('mine.py').write_text(edited(library, **changes))
    capsys.readouterr()
    status = run_command(lambda: load_script('tools/check_data.py').main(['mine.py']))
    return status, *capsys.readouterr()


@pytest.mark.parametrize('library', CONFIGS)
def test_check_counts(library: str, here: None, capsys: pytest.CaptureFixture) -> None:
    status, out, error = _check(library, capsys)
    assert (status, error) == (0, '')
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ['class', 'train', 'val']
    found = {name: [int(count) for count in counts] for name, *counts in rows[1:-1]}
    if library == 'classification':
        folders = [DATA / 'cls' / split for split in ('train', 'val')]
        assert found == {n: [len([*(f / n).iterdir()]) for f in folders] for n in DIGITS}
    elif library == 'segmentation':
        assert list(found) == ['background', *DIGITS]
        assert found['background'] == [4, 2]
    else:
        files = [DATA / f'scenes/annotations/instances_{split}.json' for split in ('train', 'val')]
        totals = [len(json.loads(file.read_text())['annotations']) for file in files]
        assert [sum(column) for column in zip(*found.values(), strict=True)] == totals


def _rewrite_json(change: Callable[[dict], object]) -> None:
    path = DATA / 'scenes/annotations/instances_val.json'
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _paint_mask(value: int) -> None:
    path = str(DATA / 'scenes/val/masks/000001.png')
    mask = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    mask[:2] = value
    cv2.imwrite(path, mask)


MISTAKES = [
    ('classification', {'data_root': 'data/gone'}, None, 'train: data/gone/train does not exist'),
    ('classification', {'classes': DIGITS[::-1]}, None, "the config has classes = ['9', '8',"),
    ('classification', {'classes': DIGITS[:9]}, None, "data/digits/cls/train are ['0', '1',"),
    (
        'classification',
        {},
        lambda: shutil.rmtree(DATA / 'cls/val/3'),
        "val: the folders in data/digits/cls/val are ['0', '1', '2', '4',",
    ),
    (
        'classification',
        {},
        lambda: [path.unlink() for path in (DATA / 'cls/train/3').iterdir()],
        "train: no image of class '3' in",
    ),
    ('detection', {'train_annotations': 'gone.json'}, None, 'gone.json does not exist'),
    ('detection', {'classes': [*DIGITS, 'x']}, None, "the config has classes = ['0', '1',"),
    ('detection', {'classes': DIGITS[::-1]}, None, "instances_train.json are ['0', '1',"),
    ('detection', {'val_images': 'val/gone'}, None, 'val: data/digits/scenes/val/gone does not'),
    (
        'detection',
        {},
        lambda: (DATA / 'scenes/val/images/000002.png').unlink(),
        'instances_val.json names 000002.png, which is not in',
    ),
    (
        'detection',
        {},
        lambda: _rewrite_json(lambda content: content.pop('categories')),
        "is no COCO file of instances (KeyError: 'categories')",
    ),
    (
        'detection',
        {},
        lambda: _rewrite_json(lambda content: content['annotations'][0].update(category_id=99)),
        'category_id 99',
    ),
    ('segmentation', {'train_masks': 'train/gone'}, None, 'train/gone does not exist'),
    ('segmentation', {'image_suffix': '.jpg'}, None, "has a name that ends in '.jpg'"),
    (
        'segmentation',
        {},
        lambda: (DATA / 'scenes/val/masks/000002.png').unlink(),
        '000002.png has no mask data/digits/scenes/val/masks/000002.png',
    ),
    (
        'segmentation',
        {},
        lambda: _paint_mask(12),
        'has the values [12]: the 11 classes are 1 to 11 (reduce_zero_label=True)',
    ),
    ('segmentation', {}, lambda: _paint_mask(255), None),
    (
        'segmentation',
        {'reduce_zero_label': False},
        lambda: _paint_mask(11),
        'has the values [11]: the 11 classes are 0 to 10 (reduce_zero_label=False)',
    ),
    (
        'segmentation',
        {'val_masks': 'val/images'},
        None,
        'val/images/000001.png is a colour image',
    ),
]


@pytest.mark.parametrize(('library', 'changes', 'spoil', 'said'), MISTAKES)
def test_check_names_both_sides(
    library: str,
    changes: dict,
    spoil: Callable | None,
    said: str | None,
    here: None,
    capsys: pytest.CaptureFixture,
) -> None:
    if spoil is not None:
        spoil()
    status, out, error = _check(library, capsys, **changes)
    if said is None:
        assert (status, error) == (0, '')
        return
    assert status == 2 and out == ''
    assert error.startswith('error: ') and error.count('\n') == 1
    assert said in error


def test_check_needs_data(here: None, capsys: pytest.CaptureFixture) -> None:
    Path('none.py').write_text("default_scope = 'mmseg'\n")
    assert run_command(lambda: load_script('tools/check_data.py').main(['none.py'])) == 2
    assert capsys.readouterr().err.startswith('error: none.py has no train_, val_')
