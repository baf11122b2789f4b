"""Means over groups of channels and over frequencies of equal length; spectra of maps."""

import numpy as np
import pytest
import torch

from mmvheat.errors import UserError
from mmvheat.ops import idct2d
from mmvheat.ops.heat import squared_frequencies
from mmvheat.visualization import channel_groups, group_means, magnitude_spectrum, radial_profile


@pytest.mark.parametrize('count', [1, 3, 10])
def test_groups_are_all_channels_by_how_well_they_conduct(count: int) -> None:
    k = torch.rand(4, 5, 10) + torch.randperm(10)
    groups = channel_groups(k, count)
    assert sorted(torch.cat(groups).tolist()) == list(range(10))
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    means = group_means(k, groups)
    assert means.shape == (count, 4, 5)
    assert (np.diff(means.mean((1, 2))) > 0).all()


def test_groups_leave_out_the_constant_frequency_and_count_infinity_as_large() -> None:
    k = torch.zeros(2, 2, 4)
    k[0, 0] = torch.tensor([9.0, 8.0, 7.0, 6.0])
    k[1, 1] = torch.tensor([1.0, torch.inf, 2.0, 3.0])
    k[0, 1, 1] = 1
    assert torch.cat(channel_groups(k, 4)).tolist() == [0, 2, 3, 1]
    for count in (0, 5):
        with pytest.raises(UserError, match=f'4 channels make 1 to 4 groups, got {count}'):
            channel_groups(k, count)


def test_the_spectrum_shows_what_a_map_consists_of() -> None:
    coefficients = torch.zeros(2, 6, 5, 3)
    coefficients[:, 2, 4] = 3
    coefficients[:, 0, 0] = -1
    expected = coefficients[0, ..., 0].abs().numpy()
    np.testing.assert_allclose(magnitude_spectrum(idct2d(coefficients)), expected, atol=1e-5)


@pytest.mark.parametrize('size', [(8, 8), (3, 17), (1, 6), (1, 1)])
def test_a_profile_of_a_function_of_the_length_is_that_function(size: tuple[int, int]) -> None:
    length = squared_frequencies(size, torch.empty(0, dtype=torch.float64)).sqrt().numpy()
    frequency, mean = radial_profile(3 * length + 1)
    np.testing.assert_allclose(mean, 3 * frequency + 1)
    assert (np.diff(frequency) > 0).all() and frequency[0] < np.pi / max(size) * 2
    frequency, mean = radial_profile(length, bins=1)
    np.testing.assert_allclose((frequency[0], mean[0]), length.mean())
