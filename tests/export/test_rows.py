"""Blocks on matrices compute what blocks on maps do, and leave nothing to split in the graph."""

import copy

import pytest
import torch
from torch import nn

from mmvheat.export.rows import use_rows
from mmvheat.models import VHeat

VARIANTS = {
    'pre_norm': {},
    'post_norm': dict(post_norm=True, layer_scale_init_value=0.5),
    'learned': dict(diffusivity='learned'),
    'patches': dict(patch_size=4, dwconv=False),
    'identity': dict(operator='identity'),
}


@pytest.fixture(params=VARIANTS)
def folded(request: pytest.FixtureRequest) -> VHeat:
    """Make a backbone with weights that matter, folded for images of 64 x 96 if it can be."""
    torch.manual_seed(0)
    arch = dict(depths=(1, 2), dims=(8, 16), **VARIANTS[request.param])
    model = VHeat(arch=arch, img_size=64, out_indices=(0, 1)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.3, 0.3)
    model.requires_grad_(False)
    return model.fold((64, 96)) if model.arch.has_decays else model


def test_rows_compute_what_maps_do(folded: VHeat):
    rows = copy.deepcopy(folded)
    use_rows(rows, (64, 96))
    images = torch.randn(3, 3, 64, 96)
    for found, expected in zip(rows.eval()(images), folded(images), strict=True):
        assert expected.std() > 0.1
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_graph_splits_nothing_and_normalises_matrices(folded: VHeat):
    """For any number of images."""
    use_rows(folded, (64, 96))
    images = torch.randn(2, 3, 64, 96)
    folded(images)
    batch = {0: torch.export.Dim('batch', max=64)}
    graph = torch.export.export(folded, (images,), dynamic_shapes=(batch,), strict=False).graph
    calls = [(str(node.target), node) for node in graph.nodes if node.op == 'call_function']
    assert not [name for name, _ in calls if 'chunk' in name or 'split' in name]
    norms = [node for name, node in calls if 'layer_norm' in name]
    *inside, _, _ = norms  # The norms of the outputs are on maps.
    assert len(inside) > 2 * 3
    assert {node.args[0].meta['val'].dim() for node in inside} == {3}
