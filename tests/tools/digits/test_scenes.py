from dataclasses import replace

import numpy as np
import pytest
from digits.digits import load_digits
from digits.scenes import compose_portrait, compose_scene
from digits.spec import DigitsSpec, SceneStyle

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
    import digits.scenes as module

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
