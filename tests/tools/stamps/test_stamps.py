"""Scenes of stamps: which are taken, how they are split, and that what is written agrees."""

import json

import cv2
import numpy as np
import pytest
from in_process import load_script
from stamps import CLASSES, StampsSpec, prepare_stamps
from stamps.drawing import read_stamp, render_stamp
from stamps.spec import find_stamps, object_of, split_stamps

from mmvheat.cli.command import run_command
from mmvheat.errors import UserError

SPEC = StampsSpec(num_train_scenes=3, num_val_scenes=2, train_renders=2, val_renders=1)
FOLDERS = {
    'bird': 'animals/birds',
    'mammal': 'animals/mammals/cats',
    'food': 'food/fruit',
    'flower': 'plants/flowers',
    'household': 'household/tools',
}
DRAWN = ('animals/birds/cartoon/tux.png', 'animals/mammals/hedgehog.png', 'town/house.png')


def write_stamp(path, rng):
    """An ellipse of one colour, transparent around, its corners another colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((60, 40, 4), (255, 0, 255, 0), np.uint8)
    colour = tuple(int(one) for one in rng.integers(0, 256, 3))
    cv2.ellipse(image, (20, 30), (16, 26), 0, 0, 360, (*colour, 255), -1)
    cv2.imwrite(str(path), image)


@pytest.fixture(scope='session')
def source(tmp_path_factory):
    """The layout of Tux Paint's stamps, a few small ones of each class."""
    root, rng = tmp_path_factory.mktemp('tuxpaint') / 'stamps', np.random.default_rng(0)
    for label, folder in FOLDERS.items():
        for name in ('one', 'one-2', 'two_red', 'two_blue', 'three', 'four5'):
            write_stamp(root / folder / f'{label}{name}.png', rng)
    for name in DRAWN:
        write_stamp(root / name, rng)
    (root / 'animals' / 'birds' / 'duck.svg').write_text('<svg/>')
    return root


@pytest.fixture(scope='session')
def data(source, tmp_path_factory):
    return prepare_stamps(tmp_path_factory.mktemp('data') / 'stamps', source, SPEC)


def test_photographs_alone_are_taken(source):
    found = find_stamps(source)
    assert tuple(found) == tuple(CLASSES)
    names = {path.relative_to(source).as_posix() for paths in found.values() for path in paths}
    assert len(names) == 30 and not names & set(DRAWN)


def test_no_object_is_in_both_splits(source, data):
    splits = split_stamps(find_stamps(source))
    objects = {split: {object_of(path) for _, path in found} for split, found in splits.items()}
    assert objects['train'] and objects['val'] and not objects['train'] & objects['val']
    for found in splits.values():
        assert {label for label, _ in found} == set(range(len(CLASSES)))
    for split in ('train', 'val'):
        coco = json.loads((data / f'scenes/annotations/instances_{split}.json').read_text())
        assert {one['source'] for one in coco['annotations']} <= objects[split]
        stems = {path.stem.split('-', 1)[1] for path in (data / 'cls' / split).glob('*/*.png')}
        assert {object_of(data / f'{stem}.png') for stem in stems} == objects[split]


def test_masks_boxes_and_labels_agree(data):
    from pycocotools import mask as coco_mask

    for split in ('train', 'val'):
        coco = json.loads((data / f'scenes/annotations/instances_{split}.json').read_text())
        assert [one['name'] for one in coco['categories']] == list(CLASSES)
        for image in coco['images']:
            folder = data / 'scenes' / split
            stored = cv2.imread(str(folder / 'masks' / image['file_name']), cv2.IMREAD_UNCHANGED)
            assert cv2.imread(str(folder / 'images' / image['file_name'])).shape == (128, 128, 3)
            expected = np.ones((128, 128), np.uint8)
            for one in coco['annotations']:
                if one['image_id'] == image['id']:
                    mask = coco_mask.decode(one['segmentation']).astype(bool)
                    assert one['area'] == mask.sum() > 0 and (expected[mask] == 1).all()
                    expected[mask] = one['category_id'] + 1
            np.testing.assert_array_equal(stored, expected)


@pytest.mark.parametrize('side', [10, 33, 64])
def test_a_drawn_stamp_fits_and_has_its_colour_alone(source, side):
    """What lies behind transparent pixels shows nowhere."""
    image = read_stamp(find_stamps(source)['food'][0])
    own = image[image[..., 3] == 1][0, :3] * 255
    for seed in range(5):
        opacity, colour = render_stamp(image, side, np.random.default_rng(seed), SPEC)
        assert max(opacity.shape) <= side and opacity.max() > 0.5
        assert np.abs(colour[opacity > 0.5] - own).max() < 3


def test_bytes_depend_on_the_seed_alone(source, data, tmp_path):
    def contents(root):
        return {p.relative_to(root): p.read_bytes() for p in root.rglob('*.png')}

    again = prepare_stamps(tmp_path / 'again', source, SPEC)
    assert contents(again) == contents(data)
    before = (again / 'manifest.json').stat().st_mtime_ns
    prepare_stamps(again, source, SPEC)
    assert (again / 'manifest.json').stat().st_mtime_ns == before
    assert 'General Public License' in (again / 'LICENSE.txt').read_text()


def test_mistakes_are_one_line(source, tmp_path, capsys):
    main = load_script('tools/prepare_stamps.py').main
    out = ['--data-root', str(tmp_path / 'out')]
    assert run_command(lambda: main(['--source', str(tmp_path), *out])) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert 'tuxpaint-stamps-default' in error and 'dpkg -x' in error and '--source' in error
    damaged = tmp_path / 'damaged'
    for label, folder in FOLDERS.items():
        for name in 'ab':
            path = damaged / folder / f'{label}{name}x.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b'\x89PNG')
    few = ['--num-train-scenes', '1', '--num-val-scenes', '1']
    with pytest.raises(UserError):
        read_stamp(path)
    assert run_command(lambda: main(['--source', str(damaged), *out, *few])) == 2
    assert 'is no picture' in capsys.readouterr().err and not (tmp_path / 'out').exists()
    with pytest.raises(UserError, match='train_renders must be an integer of at least 1, got 0'):
        StampsSpec(train_renders=0)
