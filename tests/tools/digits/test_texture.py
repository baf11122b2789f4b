import numpy as np
import pytest
from digits.spec import TextureStyle
from digits.texture import blend, colour_of_luma, dark_ground


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
