"""Effective receptive fields: of networks whose field is known, and of vHeat and ConvNeXt."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from mmvheat.errors import UserError
from mmvheat.models import VHeat
from mmvheat.visualization import (
    growing_squares,
    last_map,
    noise_images,
    receptive_field,
    squares,
    timm_map,
)


@pytest.mark.parametrize(('side', 'first', 'last'), [(9, 3, 5), (8, 2, 5)])
def test_a_convolution_sees_its_kernel(side: int, first: int, last: int) -> None:
    """Around the middle cell, or the two middle ones of an even side."""
    field = receptive_field(nn.Conv2d(3, 4, 3, padding=1), noise_images(2, (side, side)))
    seen = np.flatnonzero(field.sum(0))
    assert field.shape == (side, side) and field.sum() == pytest.approx(1)
    assert (seen == np.arange(first, last + 1)).all()
    assert squares(field, [1.0])[0].side == last - first + 1


def test_an_untrained_norm_behind_the_map_does_not_hide_it() -> None:
    """The plain sum of its channels is constant."""
    norm = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(1, 8))
    field = receptive_field(lambda x: norm(x)[:, :, 4:7, 4:7], noise_images(4, (11, 11)))
    assert squares(field, [0.2])[0].side <= 5
    with pytest.raises(UserError, match='depends on no pixel'):
        receptive_field(lambda x: norm(x) * 0, noise_images(1, (8, 8)))


def test_squares_hold_what_they_say() -> None:
    field = np.random.default_rng(0).random((6, 9))
    field /= field.sum()
    sides, areas, held = growing_squares(field)
    assert areas[-1] == pytest.approx(1) and held[-1] == pytest.approx(1)
    for square in squares(field, (0.1, 0.5, 0.99, 1.0)):
        rows, columns = (
            np.abs(np.arange(length) - (length - 1) / 2) <= (square.side - 1) / 2
            for length in field.shape
        )
        inside = np.outer(rows, columns)
        assert inside.mean() == pytest.approx(square.area)
        assert field[inside].sum() >= square.share - 1e-9
    even = squares(np.full((10, 10), 0.01), (0.159, 0.17, 1.0))
    assert [(one.side, one.area) for one in even] == [
        (4, pytest.approx(0.16)), (6, pytest.approx(0.36)), (10, pytest.approx(1)),
    ]  # fmt: skip


@pytest.mark.parametrize('post_norm', [False, True])
def test_before_training_vheat_sees_more_than_convnext(post_norm: bool) -> None:
    """ConvNeXt's layer scale of 1e-6 leaves it with its stem and downsampling at first."""
    models = pytest.importorskip('mmpretrain.models')
    images = noise_images(3, (160, 160))
    arch = dict(depths=[1, 1, 3, 1], channels=[8, 16, 32, 64])
    rival = models.ConvNeXt(arch, gap_before_final_norm=False, out_indices=(3,))
    rival.eval()
    ours = VHeat(dict(depths=(1, 1, 3, 1), dims=8, post_norm=post_norm), img_size=160).eval()
    of_rival = receptive_field(lambda x: rival(x)[0], images)
    for rivals, own in zip(
        squares(of_rival), squares(receptive_field(last_map(ours), images)), strict=True
    ):
        assert own.area > 2 * rivals.area


@pytest.mark.parametrize('name', ['convnext_atto', 'swin_tiny_patch4_window7_224'])
def test_models_of_timm(name: str) -> None:
    pytest.importorskip('timm')
    compute_map = timm_map(name, (64, 96))
    assert compute_map(torch.zeros(1, 3, 64, 96)).shape[2:] == (2, 3)
    with pytest.raises(UserError, match='has no model nowhere'):
        timm_map('nowhere', (64, 64))


def test_without_timm_a_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(UserError, match='timm cannot be imported .* the extra `timm`'):
        timm_map('convnext_tiny', (64, 64))
