import json
import shutil
import sys
import threading

import numpy as np
import pytest
from digits import prepare_digits
from digits.drawing import load_digits

from mmvheat.errors import UserError

cv2 = pytest.importorskip('cv2')
mask_utils = pytest.importorskip('pycocotools.mask')


def contents(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob('*')
        if path.is_file()
    }


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def copy(digits_root, tmp_path):
    """A complete data set to spoil."""
    return shutil.copytree(digits_root, tmp_path / 'digits')


def load_annotations(root, split):
    return json.loads((root / 'scenes' / 'annotations' / f'instances_{split}.json').read_text())


@pytest.mark.parametrize(('split', 'renders', 'digits'), [('train', 2, 24), ('val', 1, 20)])
def test_classification_images(digits_root, split, renders, digits):
    folder = digits_root / 'cls' / split
    assert names(folder) == set('0123456789')
    truth = load_digits(split, digits)
    expected = {
        f'{label}/{source:04d}_{render}.png'
        for label, source in zip(truth.labels, truth.sources, strict=True)
        for render in range(renders)
    }
    files = list(folder.glob('*/*.png'))
    assert {file.relative_to(folder).as_posix() for file in files} == expected
    assert {cv2.imread(str(file)).shape for file in files} == {(64, 64, 3)}


@pytest.mark.filterwarnings('ignore:__array__ implementation')
@pytest.mark.parametrize('split', ['train', 'val'])
def test_coco_and_semantic_agree(digits_root, split):
    """Loaded by pycocotools, every RLE has its box and area, and all make the semantic labels."""
    from pycocotools.coco import COCO

    coco = COCO(digits_root / 'scenes' / 'annotations' / f'instances_{split}.json')
    assert [item['name'] for item in coco.loadCats(coco.getCatIds())] == list('0123456789')
    folder = digits_root / 'scenes' / split
    files = {image['file_name'] for image in coco.imgs.values()}
    assert names(folder / 'images') == names(folder / 'masks') == files
    for image_id, image in coco.imgs.items():
        assert cv2.imread(str(folder / 'images' / image['file_name'])).shape == (128, 128, 3)
        labels = np.ones((image['height'], image['width']), np.uint8)
        for annotation in coco.imgToAnns[image_id]:
            mask = coco.annToMask(annotation).astype(bool)
            rows, columns = np.nonzero(mask)
            box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
            assert tuple(annotation['bbox']) == box
            assert annotation['area'] == mask.sum() and annotation['iscrowd'] == 0
            digit = int(coco.cats[annotation['category_id']]['name'])
            assert (labels[mask] == 1).all()
            labels[mask] = digit + 2
        stored = cv2.imread(str(folder / 'masks' / image['file_name']), cv2.IMREAD_UNCHANGED)
        assert stored.dtype == np.uint8
        np.testing.assert_array_equal(stored, labels)


def test_train_and_val_share_no_digit(digits_root):
    sources = {
        split: {item['source'] for item in load_annotations(digits_root, split)['annotations']}
        | {int(file.name[:4]) for file in (digits_root / 'cls' / split).glob('*/*.png')}
        for split in ('train', 'val')
    }
    assert sources['train'] and max(sources['train']) < 1347 <= min(sources['val'])


def test_manifest_counts_what_is_there(digits_root):
    manifest = json.loads((digits_root / 'manifest.json').read_text())
    for split in ('train', 'val'):
        annotations = load_annotations(digits_root, split)['annotations']
        assert manifest['instances'][split] == len(annotations)
    assert manifest['parameters']['seed'] == 0
    assert manifest['folders']['scenes/train/images'][0] == 6


def test_bytes_depend_on_the_seed_alone(digits_root, tiny, tmp_path):
    again = prepare_digits(tmp_path / 'again', **tiny)
    assert contents(again) == contents(digits_root)


def test_bytes_do_not_depend_on_the_processes(digits_root, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr('digits.build._MANY', 0)
    again = prepare_digits(tmp_path / 'again', **tiny)
    assert contents(again) == contents(digits_root)


def test_another_seed_draws_everything_anew(digits_root, tiny, tmp_path):
    old = contents(digits_root)
    new = contents(prepare_digits(tmp_path / 'other', seed=1, **tiny))
    assert new.keys() == old.keys()
    assert [name for name in new if new[name] == old[name]] == []


def test_more_scenes_begin_with_the_same(digits_root, tiny, tmp_path):
    more = prepare_digits(tmp_path / 'more', **{**tiny, 'num_train_scenes': 8})
    for file in (digits_root / 'scenes' / 'train').rglob('*.png'):
        assert (more / file.relative_to(digits_root)).read_bytes() == file.read_bytes()


def test_complete_data_are_reused_without_their_makers(copy, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, 'digits.build', None)
    before = (copy / 'manifest.json').stat().st_mtime_ns
    assert prepare_digits(copy, **tiny) == copy.resolve()
    assert (copy / 'manifest.json').stat().st_mtime_ns == before
    with pytest.raises(ImportError):  # The module is ours: nothing that a user can mend.
        prepare_digits(copy, force=True, **tiny)


def test_relative_root_and_link(copy, tiny, monkeypatch):
    (copy.parent / 'link').symlink_to(copy)
    monkeypatch.chdir(copy.parent)
    (copy / 'manifest.json').unlink()
    assert prepare_digits('link', **tiny) == copy.resolve()
    assert (copy.parent / 'link').is_symlink() and (copy / 'manifest.json').is_file()


def remove_manifest(root):
    (root / 'manifest.json').unlink()


def garble_manifest(root):
    (root / 'manifest.json').write_text('[{')


def remove_image(root):
    next((root / 'scenes' / 'val' / 'images').iterdir()).unlink()


def truncate_image(root):
    next((root / 'cls' / 'train' / '3').iterdir()).write_bytes(b'')


def remove_folder(root):
    shutil.rmtree(root / 'scenes' / 'annotations')


def add_image(root):
    (root / 'cls' / 'val' / '3' / 'mine.png').write_bytes(b'')


@pytest.mark.parametrize(
    'spoil',
    [remove_manifest, garble_manifest, remove_image, truncate_image, remove_folder, add_image],
)
def test_incomplete_data_are_made_again(copy, digits_root, tiny, spoil):
    spoil(copy)
    prepare_digits(copy, **tiny)
    assert contents(copy) == contents(digits_root)
    assert names(copy.parent) == {'digits', '.digits.lock'}


def test_other_parameters_are_made_again(copy, tiny):
    prepare_digits(copy, **{**tiny, 'num_val_scenes': 2})
    assert len(names(copy / 'scenes' / 'val' / 'images')) == 2


@pytest.mark.parametrize('existing', [False, True])
@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_interruption_leaves_old_or_nothing(digits_root, tiny, tmp_path, existing, error):
    root = tmp_path / 'digits'
    if existing:
        shutil.copytree(digits_root, root)

    def interrupt(done, total):
        if done > total // 2:
            raise error

    with pytest.raises(error):
        prepare_digits(root, **{**tiny, 'seed': 5}, progress=interrupt)
    assert names(tmp_path) == {'.digits.lock', *(['digits'] if existing else [])}
    if existing:
        assert contents(root) == contents(digits_root)


def test_leftovers_of_a_killed_process_are_removed(tiny, tmp_path):
    (tmp_path / '.digits.abc.tmp' / 'fresh').mkdir(parents=True)
    (tmp_path / '.digits.mine').mkdir()
    prepare_digits(tmp_path / 'digits', **tiny)
    assert names(tmp_path) == {'digits', '.digits.lock', '.digits.mine'}


def test_two_at_once_make_it_once(tiny, tmp_path, digits_root):
    makers = set()
    both = threading.Barrier(2)

    def make(name):
        both.wait()
        prepare_digits(tmp_path / 'digits', **tiny, progress=lambda *_: makers.add(name))

    threads = [threading.Thread(target=make, args=(name,)) for name in 'ab']
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(makers) == 1
    assert contents(tmp_path / 'digits') == contents(digits_root)


def test_progress_counts_every_image(tiny, tmp_path):
    calls = []
    root = prepare_digits(
        tmp_path / 'digits', **tiny, progress=lambda done, total: calls.append((done, total))
    )
    images = len([*root.glob('cls/*/*/*.png'), *root.glob('scenes/*/images/*.png')])
    assert calls[-1] == (images, images)
    assert sorted(set(calls)) == calls and {total for _, total in calls} == {images}


@pytest.mark.parametrize(
    ('argument', 'value', 'message'),
    [
        ('seed', -1, 'seed must be at least 0, got -1'),
        ('num_train_scenes', -4, 'num_train_scenes must be at least 1, got -4'),
        ('num_val_scenes', 0, 'num_val_scenes must be at least 1, got 0'),
        ('num_train_digits', 1348, 'num_train_digits must be from 1 to 1347, got 1348'),
        ('num_val_digits', 451, 'num_val_digits must be from 1 to 450, got 451'),
        ('train_renders', 1.5, 'train_renders must be an integer, got 1.5'),
        ('val_renders', True, 'val_renders must be an integer, got True'),
    ],
)
def test_bad_arguments(tmp_path, argument, value, message):
    with pytest.raises(UserError, match=message):
        prepare_digits(tmp_path / 'digits', **{argument: value})
    assert names(tmp_path) == set()


def test_root_is_a_file(tmp_path):
    root = tmp_path / 'digits'
    root.write_text('precious')
    with pytest.raises(UserError, match='is a file, expected a folder'):
        prepare_digits(root)
    assert root.read_text() == 'precious' and names(tmp_path) == {'digits'}


def test_root_with_other_files_is_not_replaced(tmp_path):
    root = tmp_path / 'home'
    root.mkdir()
    (root / 'thesis.tex').write_text('precious')
    with pytest.raises(UserError, match=r"holds 'thesis.tex', which is not of this data set"):
        prepare_digits(root, force=True)
    assert names(root) == {'thesis.tex'} and names(tmp_path) == {'home'}


def test_root_below_a_file(tmp_path, tiny):
    (tmp_path / 'file').write_text('precious')
    with pytest.raises(OSError):
        prepare_digits(tmp_path / 'file' / 'digits', **tiny)
    assert (tmp_path / 'file').read_text() == 'precious'


@pytest.mark.parametrize('module', ['cv2', 'sklearn', 'pycocotools'])
def test_a_missing_package_is_named(tmp_path, monkeypatch, tiny, module):
    monkeypatch.setitem(sys.modules, module, None)
    for made in ('digits.build', 'digits.drawing'):
        monkeypatch.delitem(sys.modules, made, raising=False)
    advice = rf"need '{module}', which is not installed: pip install \"mmvheat\[demo\]\""
    with pytest.raises(UserError, match=advice) as caught:
        prepare_digits(tmp_path / 'digits', **tiny)
    assert '\n' not in str(caught.value) and not (tmp_path / 'digits').exists()
