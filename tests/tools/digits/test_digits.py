import numpy as np
import pytest
from digits.digits import load_digits, render_digit
from digits.spec import DigitStyle

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
