"""Counts equal closed formulas, and the figures that the published tables follow from."""

from pathlib import Path

import pytest
import torch
from get_flops import read_published
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmvheat.models import VHeat
from mmvheat.models.counting import count_model
from mmvheat.ops import freq_embed_size

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def ordinary_algorithms(poisoned_memory):
    """Deterministic interpolation is made of operators that count otherwise."""
    torch.use_deterministic_algorithms(False)


ARCH = dict(depths=[2, 1, 3], dims=[8, 12, 20], post_norm=True, mlp_ratio=3.0)

SEGMENTOR = ROOT / 'configs/segmentation/vheat-t_upernet_8xb2-160k_ade20k-512x512.py'

# In millions and thousand millions; detectors and segmentors in the training form.
COUNTED = {
    'vheat-tiny_16xb128_in1k': (29.558, 4.589),
    'vheat-small_16xb128_in1k': (50.054, 8.477),
    'vheat-base_16xb128_in1k': (87.499, 14.925),
    'mask-rcnn_vheat-t_fpn_1x_coco': (52.744, 286.36),
    'mask-rcnn_vheat-s_fpn_1x_coco': (74.111, 376.54),
    'mask-rcnn_vheat-b_fpn_1x_coco': (114.685, 526.24),
    # The 3x tiny model keeps embeddings of 224 x 224.
    'mask-rcnn_vheat-t_fpn_ms-3x_coco': (50.360, 286.36),
    'mask-rcnn_vheat-s_fpn_ms-3x_coco': (74.111, 376.54),
    'vheat-t_upernet_8xb2-160k_ade20k-512x512': (64.892, 968.73),
    'vheat-s_upernet_8xb2-160k_ade20k-512x512': (86.259, 1062.20),
    'vheat-b_upernet_8xb2-160k_ade20k-512x512': (128.823, 1219.43),
}
# The published 62 M / 948 G and 82 M / 1028 G follow from no convention tried.
UNEXPLAINED = ('vheat-t_upernet', 'vheat-s_upernet')
SIZES = {'mmpretrain': (224, 224), 'mmdet': (800, 1280), 'mmseg': (512, 2048)}


def on_meta(config: Config) -> torch.nn.Module:
    with DefaultScope.overwrite_default_scope(config.default_scope), torch.device('meta'):
        return MODELS.build(config.model)


def closed_formula(size: tuple[int, int], inference_form: bool) -> float:
    """FLOPs of a backbone of ``ARCH``: layer by layer, from the paper's description."""
    dims, sizes = ARCH['dims'], [freq_embed_size(size, i) for i in range(3)]
    height, width = -(-size[0] // 2), -(-size[1] // 2)
    total = height * width * (dims[0] // 2) * (27 + 5)  # the stem's first convolution and norm
    height, width = sizes[0]
    total += height * width * dims[0] * (9 * dims[0] // 2 + 5)
    for i, (depth, dim) in enumerate(zip(ARCH['depths'], dims, strict=True)):
        height, width = sizes[i]
        elements = height * width * dim
        block = elements * (9 + 2 * dim + dim + 15)  # depth-wise, two linear layers, three norms
        block += 2 * elements * (height + width) + elements / 2  # transforms there and back, decay
        block += 2 * elements * int(dim * ARCH['mlp_ratio'])
        block += 0 if inference_form else elements * dim
        total += depth * block + 5 * elements  # and the output norm
        if i + 1 < len(dims):
            height, width = sizes[i + 1]
            total += height * width * dims[i + 1] * (9 * dim + 5)
    return total


@pytest.mark.parametrize('inference_form', [False, True])
@pytest.mark.parametrize('size', [(64, 64), (77, 101), (30, 201)])
def test_backbone_equals_a_closed_formula(size, inference_form):
    with torch.device('meta'):
        backbone = VHeat(ARCH, img_size=48, out_indices=(0, 1, 2))
    assert count_model(backbone, size, inference_form).flops == closed_formula(size, inference_form)


def test_inference_form_exchanges_parameters():
    with torch.device('meta'):
        backbone = VHeat(ARCH, img_size=64, out_indices=(2,))
    training, inference = (count_model(backbone, (64, 32), form).parameters for form in (0, 1))
    assert training == sum(p.numel() for p in backbone.parameters())
    gone = sum(p.numel() for name, p in backbone.named_parameters() if 'to_k' in name)
    gone += sum(p.numel() for p in backbone.freq_embed)
    folded = 2 * 16 * 8 * 8 + 8 * 4 * 12 + 3 * 4 * 2 * 20
    assert training - inference == gone - folded


@pytest.mark.parametrize('row', read_published(ROOT / 'configs'), ids=lambda row: row.name)
def test_published_rows(row):
    pytest.importorskip('mmcv')
    config = Config.fromfile(ROOT / row.config)
    scope = config.default_scope
    counted = count_model(on_meta(config), SIZES[scope], inference_form=scope == 'mmpretrain')
    parameters, flops = COUNTED[row.name]
    assert round(counted.parameters / 1e6, 3) == parameters
    assert round(counted.flops / 1e9, 3 if scope == 'mmpretrain' else 2) == flops
    if not row.name.startswith(UNEXPLAINED):
        digits = 0 if scope != 'mmpretrain' else 1
        assert round(flops, digits) == row.flops / 1e9
        if row.name != 'mask-rcnn_vheat-t_fpn_ms-3x_coco':
            assert abs(parameters - row.parameters / 1e6) < 0.6


def test_auxiliary_heads_count_as_parameters_alone():
    pytest.importorskip('mmcv')
    config = Config.fromfile(SEGMENTOR)
    whole = count_model(on_meta(config), (64, 64))
    auxiliary = config.model.pop('auxiliary_head')
    without = count_model(on_meta(config), (64, 64))
    assert whole.flops == without.flops
    assert whole.parameters > without.parameters + auxiliary.in_channels


def test_every_cascade_stage_counts():
    pytest.importorskip('mmcv')
    names = ('mask-rcnn_vheat-t_fpn_1x_coco', 'cascade-mask-rcnn_vheat-t_fpn_1x_coco')
    plain, cascade = (
        count_model(on_meta(Config.fromfile(ROOT / f'configs/detection/{name}.py')), (64, 64))
        for name in names
    )
    box, mask = 256 * 49 * 1024 + 1024**2 + 1024 * 81, 52.98592e9
    regression = 1024 * 4
    # Mask R-CNN regresses for each class, a cascade for all alike.
    expected = 2 * mask + 1000 * (2 * box + 3 * regression - 80 * regression)
    assert cascade.flops - plain.flops == pytest.approx(expected, rel=1e-5)


def test_a_model_with_memory_is_refused():
    with pytest.raises(ValueError, match='meta device, got one on cpu'):
        count_model(VHeat(ARCH, img_size=32, out_indices=(2,)), (32, 32))


def test_a_folder_without_metafiles_is_refused(tmp_path):
    with pytest.raises(ValueError, match='no metafile.yml'):
        read_published(tmp_path)
