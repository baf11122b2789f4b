from dataclasses import replace

import numpy as np
import pytest
from digits.drawing import (
    blend,
    colour_of_luma,
    compose_portrait,
    compose_scene,
    dark_ground,
    load_digits,
    render_digit,
)
from digits.spec import DigitsSpec, DigitStyle, SceneStyle, TextureStyle

SPEC = DigitsSpec()


@pytest.fixture(scope='module')
def digits():
    return load_digits('train')


@pytest.fixture(scope='module')
def scenes(digits):
    return [compose_scene(digits, np.random.default_rng(seed), SPEC) for seed in range(40)]


def test_scene_is_what_its_style_says(scenes):
    low, high = SPEC.scene.scene_digits
    counts = [len(scene.instances) for scene in scenes]
    assert max(counts) <= high and np.mean(counts) > (low + high) / 2 - 0.5
    for scene in scenes:
        assert scene.image.shape == (128, 128, 3) and scene.image.dtype == np.uint8
        for instance in scene.instances:
            rows = np.nonzero(instance.mask)[0]
            assert 14 <= np.ptp(rows) + 1 <= 54


def test_masks_are_disjoint_and_tell_the_labels(scenes, digits):
    for scene in scenes:
        masks = np.stack([instance.mask for instance in scene.instances])
        assert masks.sum(axis=0).max() == 1
        expected = np.ones((128, 128), np.uint8)
        for instance in scene.instances:
            expected[instance.mask] = instance.label + 2
            assert digits.labels[instance.source] == instance.label
        np.testing.assert_array_equal(scene.semantic, expected)


def test_digits_are_brighter_than_what_surrounds_them(scenes):
    for scene in scenes:
        luma = scene.image @ np.array([0.299, 0.587, 0.114])
        ground = np.median(luma[scene.semantic == 1])
        for instance in scene.instances:
            assert np.median(luma[instance.mask]) > ground + 60


@pytest.mark.parametrize('max_hidden', [0.0, 0.1])
def test_no_digit_is_hidden_by_more_than_the_style_allows(digits, max_hidden, monkeypatch):
    """The whole masks are caught on their way in, and compared with what is left of them."""
    import digits.drawing as module

    spec = replace(SPEC, scene=SceneStyle(scene_digits=(9, 9), max_hidden=max_hidden))
    placed = []
    original = module._find_place

    def spy(mask, *rest):
        position = original(mask, *rest)
        if position is not None:
            placed.append(mask.sum())
        return position

    monkeypatch.setattr(module, '_find_place', spy)
    for seed in range(10):
        placed.clear()
        scene = compose_scene(digits, np.random.default_rng(seed), spec)
        seen = np.array([instance.mask.sum() for instance in scene.instances])
        assert len(seen) == len(placed)
        assert (seen >= (1 - max_hidden) * np.array(placed) - 1e-9).all()


def test_portrait(digits):
    for seed, image in enumerate(digits.images[:50]):
        portrait = compose_portrait(image, np.random.default_rng(seed), SPEC)
        again = compose_portrait(image, np.random.default_rng(seed), SPEC)
        assert portrait.shape == (64, 64, 3) and portrait.dtype == np.uint8
        np.testing.assert_array_equal(portrait, again)
        assert portrait.max() > 150 > np.median(portrait)


cv2 = pytest.importorskip('cv2')

PLAIN = DigitStyle(rotation=(0, 0), shear=(0, 0), aspect=(1, 1), threshold=(0.46, 0.46))


def test_split_is_the_documented_one():
    train, val = load_digits('train'), load_digits('val')
    assert (len(train.labels), len(val.labels)) == (1347, 450)
    np.testing.assert_array_equal(np.concatenate([train.sources, val.sources]), np.arange(1797))
    for split in (train, val):
        assert split.images.shape == (len(split.labels), 8, 8)
        assert split.images.min() == 0 and split.images.max() == 1
        assert set(split.labels) == set(range(10))


def test_count_takes_the_first():
    few, every = load_digits('val', 7), load_digits('val')
    for part, whole in zip(few, every, strict=True):
        np.testing.assert_array_equal(part, whole[:7])


def test_unknown_split():
    with pytest.raises(ValueError, match="'train' or 'val', got 'test'"):
        load_digits('test')


@pytest.mark.parametrize('height', [16, 33.3, 62])
def test_height_is_the_one_asked_for(height):
    digits = load_digits('train', 60)
    for index, image in enumerate(digits.images):
        mask = render_digit(image, height, np.random.default_rng(index), DigitStyle()) > 0.5
        assert abs(np.ptp(np.nonzero(mask)[0]) + 1 - height) <= 2


@pytest.mark.parametrize('max_side', [20, 64])
def test_max_side_holds_for_every_digit(max_side):
    rng = np.random.default_rng(0)
    for image in load_digits('train').images:
        opacity = render_digit(image, 64, rng, DigitStyle(), max_side=max_side)
        assert max(opacity.shape) <= max_side
        assert opacity.min() >= 0 and opacity.max() <= 1 and (opacity > 0.5).any()


def test_a_drawn_digit_is_the_digit_and_not_its_mirror_image():
    """Shrunk back, it resembles the original more than the original mirrored or turned."""
    digits = load_digits('val', 200)
    likenesses = []
    for image in digits.images:
        rows, columns = np.nonzero(image > 0.46)
        crop = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        drawn = render_digit(image, 60, np.random.default_rng(0), PLAIN)[1:-1, 1:-1]
        small = cv2.resize(drawn, crop.shape[::-1], interpolation=cv2.INTER_AREA)
        views = (crop, crop[::-1], crop[:, ::-1], crop[::-1, ::-1])
        likenesses.append([np.corrcoef(small.ravel(), view.ravel())[0, 1] for view in views])
    likenesses = np.array(likenesses)
    assert likenesses[:, 0].mean() > 0.9
    assert np.mean(likenesses.argmax(axis=1) == 0) > 0.97


@pytest.mark.parametrize('luma', [0.0, 20.0, 128.0, 200.0, 250.0, 255.0])
def test_colour_has_the_luma_and_is_in_range(luma):
    rng = np.random.default_rng(1)
    colours = np.stack([colour_of_luma(luma, rng) for _ in range(200)])
    np.testing.assert_allclose(colours @ [0.299, 0.587, 0.114], luma, atol=1e-6)
    assert colours.min() >= 0 and colours.max() <= 255 + 1e-6


@pytest.mark.parametrize('size', [64, 128])
def test_ground_is_darker_than_ink(size):
    for seed in range(20):
        ground = dark_ground(size, np.random.default_rng(seed), TextureStyle())
        assert ground.shape == (size, size, 3)
        assert np.quantile(ground @ [0.299, 0.587, 0.114], 0.99) < 150


def test_blend_is_linear_and_local():
    image = np.full((6, 8, 3), 10.0, np.float32)
    opacity = np.array([[0.0, 0.5, 1.0]], np.float32)
    blend(image, opacity, np.array([110.0, 10.0, 210.0]), top=2, left=4)
    np.testing.assert_allclose(image[2, 4:7], [[10, 10, 10], [60, 10, 110], [110, 10, 210]])
    image[2, 4:7] = 10
    assert (image == 10).all()
