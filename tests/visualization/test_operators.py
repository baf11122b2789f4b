"""What is found in a model: its blocks, their diffusivity, their heat, the stages' maps."""

import pytest
import torch
from torch import nn

from mmvheat.errors import UserError
from mmvheat.models import VHeat, VHeatClassifier
from mmvheat.ops import conduct, heat_decay
from mmvheat.visualization import (
    block_diffusivity,
    find_backbone,
    find_block,
    heat_at,
    map_cell,
    operator_input,
    stage_maps,
)

ARCH = dict(depths=(1, 2), dims=8)


def _backbone(**options: object) -> VHeat:
    return VHeat(ARCH, img_size=(32, 24), out_indices=(0, 1), **options).eval()


def test_the_backbone_is_found_in_any_model() -> None:
    model = VHeatClassifier(ARCH, num_classes=3)
    assert find_backbone(nn.Sequential(nn.ReLU(), model)) is model.backbone
    assert find_backbone(model.backbone) is model.backbone
    with pytest.raises(UserError, match='Linear has no vHeat backbone'):
        find_backbone(nn.Linear(2, 2))


@pytest.mark.parametrize('size', [None, (32, 24), (64, 40), (8, 12)])
@pytest.mark.parametrize(('stage', 'block'), [(0, 0), (1, 0), (-1, -1)])
def test_conducting_with_the_diffusivity_is_what_the_block_does(size, stage, block) -> None:
    """Its operator gives the same when it is given the conducted heat."""
    backbone = _backbone()
    operator = find_block(backbone, stage, block).op
    images = torch.randn(2, 3, *(size or backbone.img_size))
    seen = []
    operator.register_forward_hook(lambda _, given, out: seen.append((given, out)))
    with torch.no_grad():
        backbone(images)
        ((x, freq_embed, *_), out) = seen[0]
        heat = operator_input(backbone, images, stage, block)
        k = block_diffusivity(backbone, stage, block, size)
        # k is 1 where nothing fades: the operator without conduction, given what conduction made.
        z = operator.linear(operator.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)).chunk(2, -1)
        normed = operator.out_norm(conduct(heat, heat_at(k, 1))) * nn.functional.silu(z[1])
        torch.testing.assert_close(operator.out_linear(normed), out, atol=1e-5, rtol=1e-4)


def test_folded_backbones_give_the_same_diffusivity() -> None:
    """But for k(0, 0), which has no effect, and is not kept."""
    backbone = _backbone()
    expected = block_diffusivity(backbone, 1, 1, (64, 40))
    backbone.fold((64, 40))
    found = block_diffusivity(backbone, 1, 1)
    torch.testing.assert_close(
        found.flatten(0, 1)[1:], expected.flatten(0, 1)[1:], atol=1e-4, rtol=0
    )
    assert (found[0, 0] == 0).all()
    find_block(backbone, 1, 1).op.k_exp.data[2, 1] = 0
    assert block_diffusivity(backbone, 1, 1)[2, 1].isinf().all()
    images = torch.zeros(1, 3, 32, 24)
    for look in (
        lambda: block_diffusivity(backbone, 0, 0, (32, 24)),
        lambda: operator_input(backbone, images, 0),
        lambda: stage_maps(backbone, images),
    ):
        with pytest.raises(UserError, match='folded for images of 64 x 40, got 32 x 24'):
            look()


def test_stage_maps_are_the_outputs_before_their_norms() -> None:
    backbone, images = _backbone(), torch.randn(2, 3, 33, 24)
    maps = stage_maps(backbone, images)
    with torch.no_grad():
        for i, (found, expected) in enumerate(zip(maps, backbone(images), strict=True)):
            normed = getattr(backbone, f'outnorm{i}')(found).permute(0, 3, 1, 2)
            torch.testing.assert_close(normed, expected)


@pytest.mark.parametrize(
    ('stage', 'block', 'said'),
    [
        (2, 0, 'the backbone has no stage 2: it has stage 0 to 1'),
        (-3, 0, 'the backbone has no stage -3'),
        (0, 1, 'stage 0 has no block 1: it has block 0 to 0'),
        (-1, -3, 'stage 1 has no block -3: it has block 0 to 1'),
    ],
)
def test_unknown_stages_and_blocks(stage: int, block: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        block_diffusivity(_backbone(), stage, block)


def test_every_pixel_lies_in_the_cell_that_covers_it() -> None:
    for pixel in range(33):
        row, column = map_cell((pixel, 0), (33, 24), (9, 6))
        assert row * 33 / 9 <= pixel < (row + 1) * 33 / 9 and column == 0
    for outside in ((33, 0), (0, 24), (-1, 0)):
        with pytest.raises(UserError, match=f'pixel {outside[0]} {outside[1]} .* rows are 0 to 32'):
            map_cell(outside, (33, 24), (9, 6))


@pytest.mark.parametrize(
    'options',
    [dict(diffusivity='learned'), dict(diffusivity='shared'), dict(diffusivity='fixed', k=0.5)],
)
def test_variants_of_heat_give_the_diffusivity_they_have(options) -> None:
    backbone = VHeat(ARCH | options, img_size=(32, 24), out_indices=1).eval()
    k = block_diffusivity(backbone, 1, 1, (64, 40))
    spectrum = find_block(backbone, 1, 1).op.mixer.spectrum((8, 5))
    torch.testing.assert_close(heat_decay(k), spectrum.detach())


def test_variants_without_a_diffusivity_say_so() -> None:
    backbone = VHeat(ARCH | dict(operator='dct_filter'), img_size=32, out_indices=1)
    with pytest.raises(UserError, match="operator='dct_filter' has no diffusivity"):
        block_diffusivity(backbone.fold(), 0)
