"""Heat from a point: it is conserved, symmetric, and solves the heat equation."""

import numpy as np
import pytest
import torch

from mmvheat.errors import UserError
from mmvheat.ops import heat_conduction
from mmvheat.visualization import constant_diffusivity, heat_at, point_heat

TIMES = (0.0, 0.3, 1.0, 50.0)


def _random_k(height: int, width: int, channels: int = 5) -> torch.Tensor:
    return torch.rand(height, width, channels, dtype=torch.float64)


@pytest.mark.parametrize(('size', 'cell'), [((7, 12), (0, 11)), ((1, 5), (0, 2)), ((1, 1), (0, 0))])
def test_heat_is_conserved_and_begins_in_the_cell(size: tuple, cell: tuple) -> None:
    maps = point_heat(_random_k(*size), cell, TIMES)
    assert maps.shape == (len(TIMES), *size)
    np.testing.assert_allclose(maps.sum((1, 2)), 1, atol=1e-12)
    source = np.zeros(size)
    source[cell] = 1
    np.testing.assert_allclose(maps[0], source, atol=1e-12)
    np.testing.assert_allclose(point_heat(_random_k(*size), cell, [1e9]), 1 / source.size)


def test_at_time_1_it_is_what_the_block_does() -> None:
    k = _random_k(6, 9)
    source = torch.zeros(1, 6, 9, 5, dtype=torch.float64)
    source[0, 2, 7] = 1
    expected = heat_conduction(source, k)[0].numpy()
    np.testing.assert_allclose(point_heat(k, (2, 7))[0], expected.mean(-1), atol=1e-12)
    np.testing.assert_allclose(point_heat(k, (2, 7), channel=3)[0], expected[..., 3], atol=1e-12)
    weights = torch.tensor([0.0, 2.0, 1.0, 0.0, 1.0])
    weighted = np.average(expected, axis=-1, weights=weights)
    np.testing.assert_allclose(point_heat(k, (2, 7), weights=weights)[0], weighted, atol=1e-12)


def test_symmetric_k_spreads_heat_symmetrically() -> None:
    """From the middle with any k; with the same k for rows and columns from the diagonal."""
    k = _random_k(9, 9)
    (across,) = point_heat(k, (4, 4))
    for mirrored in (across[::-1], across[:, ::-1]):
        np.testing.assert_allclose(mirrored, across, atol=1e-12)
    assert np.abs(across - across.T).max() > 1e-3
    (same,) = point_heat((k + k.transpose(0, 1)) / 2, (2, 2))
    np.testing.assert_allclose(same, same.T, atol=1e-12)
    assert np.abs(same - same[::-1]).max() > 1e-3


def _by_finite_differences(size: tuple, cell: tuple, time: float, steps: int) -> np.ndarray:
    """Solve the heat equation of diffusivity 1 by explicit steps; no heat crosses the edges."""
    heat = np.zeros(size)
    heat[cell] = 1
    for _ in range(steps):
        outside = np.pad(heat, 1, mode='edge')
        down, right = np.diff(outside, 2, axis=0), np.diff(outside, 2, axis=1)
        heat = heat + time / steps * (down[:, 1:-1] + right[1:-1])
    return heat


@pytest.mark.parametrize(('size', 'cell'), [((40, 30), (6, 11)), ((24, 50), (0, 49))])
@pytest.mark.parametrize('time', [20.0, 60.0])
def test_constant_k_solves_the_heat_equation(size: tuple, cell: tuple, time: float) -> None:
    """Within 1 %, once the heat has spread over several cells, which differences need."""
    expected = _by_finite_differences(size, cell, time, steps=int(time * 20))
    (found,) = point_heat(constant_diffusivity(size, 2.0).double(), cell, [time / 2])
    assert expected.max() > 3 / expected.size  # far from even still
    assert np.abs(found - expected).max() < 0.01 * expected.max()


def test_infinite_k_at_time_0_leaves_all() -> None:
    k = torch.tensor([[[np.inf], [0.0]], [[np.inf], [1.0]]])
    assert torch.equal(heat_at(k, 0), torch.ones(2, 2, 1))
    assert heat_at(k, 1).flatten().tolist() == pytest.approx([1, 1, 0, np.exp(-(np.pi**2) / 2)])


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(cell=(3, 0)), 'cell 3 0 .* outside of the map of 3 x 4'),
        (dict(cell=(0, -1)), 'cell 0 -1 .* outside'),
        (dict(times=[1, -1]), 'a time is a number from 0, got -1'),
        (dict(times=[float('inf')]), 'a time is a number from 0, got inf'),
        (dict(channel=5), 'no channel 5: the map has 0 to 4'),
        (dict(channel=-1), 'no channel -1'),
        (dict(weights=torch.zeros(5)), 'all zero'),
    ],
)
def test_mistakes(options: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        point_heat(_random_k(3, 4), **{'cell': (0, 0), **options})


@pytest.mark.parametrize('k', [-0.1, float('nan'), float('inf')])
def test_constant_diffusivity_is_a_number_from_0(k: float) -> None:
    with pytest.raises(UserError, match='a diffusivity is a number from 0'):
        constant_diffusivity((2, 2), k)
