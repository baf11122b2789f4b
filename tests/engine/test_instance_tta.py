"""Merging of detections with masks: by hand-made views, and through a small Mask R-CNN."""

from pathlib import Path

import pytest
import torch
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmvheat.engine.instance_tta import InstanceTTAModel

CONFIG = Path(__file__).parents[1] / 'tools' / 'configs' / 'detection.py'
HEIGHT, WIDTH = 24, 40
AXES = {None: (), 'horizontal': (-1,), 'vertical': (-2,), 'diagonal': (-2, -1)}
FIELDS = ('bboxes', 'scores', 'labels', 'masks')


class Detector(nn.Module):
    """Stands where merging alone is tested."""

    test_cfg = ConfigDict(rcnn=dict(nms=dict(type='nms', iou_threshold=0.3), max_per_img=7))

    def test_step(self) -> None:
        raise AssertionError('merging runs no model')


def merger(**tta_cfg: object) -> InstanceTTAModel:
    return InstanceTTAModel(Detector(), tta_cfg=tta_cfg)


def metainfo(direction: str | None, height: int = HEIGHT, width: int = WIDTH) -> dict:
    return dict(ori_shape=(height, width), flip=direction is not None, flip_direction=direction)


def flip(boxes: Tensor, direction: str | None, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Flip boxes by what a flip does to each corner."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    if -1 in AXES[direction]:
        x1, x2 = width - x2, width - x1
    if -2 in AXES[direction]:
        y1, y2 = height - y2, height - y1
    return torch.stack([x1, y1, x2, y2], -1)


def view(direction: str | None = None, **fields: Tensor) -> DetDataSample:
    """What a model finds in the flipped image where the original has ``fields``."""
    sample = DetDataSample(metainfo=metainfo(direction))
    if len(fields['bboxes']):
        fields['bboxes'] = flip(fields['bboxes'], direction)
    if 'masks' in fields:
        fields['masks'] = fields['masks'].flip(AXES[direction])
    sample.pred_instances = InstanceData(**fields)
    return sample


def detections(number: int, classes: int = 3, masks: bool = True) -> dict[str, Tensor]:
    """Random overlapping boxes by falling score; a mask is noise within its box."""
    corners = torch.rand(number, 2) * torch.tensor([WIDTH - 13.0, HEIGHT - 9.0])
    # Multiples of 1/8 are flipped without rounding.
    boxes = torch.cat([corners, corners + 4 + 8 * torch.rand(number, 2)], 1).mul(8).round() / 8
    found = dict(
        bboxes=boxes.clamp(max=torch.tensor([WIDTH, HEIGHT] * 2)),
        scores=torch.rand(number).sort(descending=True).values,
        labels=torch.randint(classes, (number,)),
    )
    if masks:
        x, y = torch.arange(WIDTH), torch.arange(HEIGHT)[:, None]
        x1, y1, x2, y2 = found['bboxes'][:, :, None, None].unbind(1)
        inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
        found['masks'] = inside & (torch.rand(number, HEIGHT, WIDTH) < 0.5)
        found['mask_scores'] = torch.rand(number)
    return found


def assert_same(left: InstanceData, right: InstanceData | dict) -> None:
    assert set(left.keys()) == set(right.keys())
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype and torch.equal(tensor, right[name]), name


@pytest.mark.parametrize('direction', AXES)
def test_a_single_view_comes_back_exactly(direction: str | None) -> None:
    """Whatever the merging: the model's own NMS has been over it."""
    found = detections(30)
    model = merger(nms=dict(type='soft_nms', iou_threshold=0.01), max_per_img=100)
    (merged,) = model.merge_preds([[view(direction, **found)]])
    assert_same(merged.pred_instances, found)


def test_views_without_a_word_of_flips_are_not_flipped() -> None:
    found = detections(5)
    sample = view(None, **found)
    for name in ('flip', 'flip_direction'):
        sample.set_field(None, name, field_type='metainfo')
        delattr(sample, name)
    (merged,) = merger().merge_preds([[sample]])
    assert_same(merged.pred_instances, found)


def test_one_object_seen_in_all_views_is_one_with_the_mask_of_the_best() -> None:
    """Two scales of four flips; boxes of the other scale are a little off."""
    best = detections(1)
    views, scores = [], torch.linspace(0.3, 0.9, 8)[torch.randperm(8)]
    for number, direction in enumerate([*AXES] * 2):
        found = dict(detections(1), labels=best['labels'], scores=scores[number, None])
        found['bboxes'] = best['bboxes'] + 0.25 * (number // 4)
        views.append((found, view(direction, **found)))
    other = dict(detections(1), labels=best['labels'] + 1, bboxes=best['bboxes'])
    other['scores'] = torch.tensor([0.1])
    samples = [sample for _, sample in views] + [view('diagonal', **other)]
    (merged,) = merger().merge_preds([samples])
    expected = [views[scores.argmax()][0], other]
    assert_same(
        merged.pred_instances, {key: torch.cat([one[key] for one in expected]) for key in best}
    )
    assert merged is samples[0]


@pytest.mark.parametrize(
    'nms',
    [
        dict(type='nms', iou_threshold=0.4),
        dict(type='nms', iou_threshold=0.4, class_agnostic=True),
        dict(type='soft_nms', iou_threshold=0.3, min_score=0.05),
        dict(type='nms', iou_threshold=0.4, split_thr=2),
        None,
    ],
    ids=['nms', 'class-agnostic', 'soft', 'split', 'none'],
)
@pytest.mark.parametrize('limit', [1000, 6])
def test_boxes_as_mmdet_merges_them_and_their_own_masks(nms: dict | None, limit: int) -> None:
    found = [detections(number) for number in (20, 0, 35, 15)]
    views = [view(direction, **one) for direction, one in zip(AXES, found, strict=True)]
    # A view that finds nothing may have no masks.
    del views[1].pred_instances.masks
    boxes = [view(d, **{k: one[k] for k in FIELDS[:3]}) for d, one in zip(AXES, found, strict=True)]
    settings = ConfigDict(nms=nms, max_per_img=limit)
    copies = [sample.clone() for sample in boxes]
    (expected,) = DetTTAModel(settings, module=Detector()).merge_preds([copies])
    (alike,) = merger(**settings).merge_preds([boxes])
    (merged,) = merger(**settings).merge_preds([views])
    expected, merged = expected.pred_instances, merged.pred_instances
    assert 3 < len(merged) <= limit

    everything = {name: torch.cat([one[name] for one in found]) for name in found[0]}
    for number, box in enumerate(merged.bboxes):
        (row,) = (everything['bboxes'] == box).all(1).nonzero()[:, 0]
        assert torch.equal(merged.masks[number], everything['masks'][row])
        assert merged.mask_scores[number] == everything['mask_scores'][row]
    del merged.masks, merged.mask_scores
    assert_same(merged, expected)
    assert_same(alike.pred_instances, expected)


@pytest.mark.parametrize('dtype', [torch.bool, torch.uint8])
def test_nothing_found_is_an_empty_stack_of_masks(dtype: torch.dtype) -> None:
    nothing = {name: tensor[:0] for name, tensor in detections(1, masks=False).items()}
    empty = torch.zeros(0, HEIGHT, WIDTH, dtype=dtype)
    views = [view(None, **nothing), view('horizontal', **nothing, masks=empty)]
    (merged,) = merger().merge_preds([views])
    assert merged.pred_instances.masks.shape == (0, HEIGHT, WIDTH)
    assert merged.pred_instances.masks.dtype == dtype
    (merged,) = merger().merge_preds([[view(None, **nothing), view('vertical', **nothing)]])
    assert_same(merged.pred_instances, nothing)


def test_settings_come_from_the_detector_unless_given() -> None:
    nms = dict(type='nms', iou_threshold=0.3)
    assert merger().tta_cfg == dict(nms=nms, max_per_img=7)
    assert merger(max_per_img=2).tta_cfg == dict(nms=nms, max_per_img=2)
    one_stage, silent = Detector(), Detector()
    one_stage.test_cfg = ConfigDict(nms=dict(type='soft_nms'), max_per_img=9, score_thr=0.1)
    silent.test_cfg = None
    assert InstanceTTAModel(one_stage).tta_cfg == dict(nms=dict(type='soft_nms'), max_per_img=9)
    default = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    assert InstanceTTAModel(silent).tta_cfg == default
    with pytest.raises(ValueError, match='takes nms and max_per_img, got max_per_image'):
        merger(max_per_image=2)


@pytest.fixture(scope='module')
def mask_rcnn() -> nn.Module:
    """The tests' Mask R-CNN with random weights, which finds ten objects in any image."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        cfg = Config.fromfile(CONFIG)
        model = MODELS.build(cfg.model).eval()
    model.init_weights()
    # Weights as initialised tell nothing apart: all scores and masks would be ties.
    for head in (model.roi_head.bbox_head, model.roi_head.mask_head, model.rpn_head):
        for weight in head.parameters():
            nn.init.normal_(weight, std=0.2)
    return model


def batch(image: Tensor, *directions: str | None, scale: float = 1) -> dict:
    """An image of the size that the network sees, and its views, as the data loader gives them."""
    height, width = (int(side / scale) for side in image.shape[-2:])
    meta = dict(img_shape=image.shape[-2:], scale_factor=(scale, scale))
    return dict(
        inputs=[[image.flip(AXES[direction])] for direction in directions],
        data_samples=[
            [DetDataSample(metainfo=dict(meta, **metainfo(direction, height, width)))]
            for direction in directions
        ],
    )


@pytest.mark.parametrize(
    'rcnn',
    [{}, dict(score_thr=1.0), dict(max_per_img=3), dict(mask_thr_binary=-1)],
    ids=['plain', 'nothing found', 'three kept', 'grey masks'],
)
@pytest.mark.parametrize('views', [1, 3])
def test_the_identity_gives_the_plain_result(
    mask_rcnn: nn.Module, rcnn: dict, views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, bit by bit, and several times, which only merging makes one again."""
    test_cfg = ConfigDict({**mask_rcnn.roi_head.test_cfg, **rcnn})
    monkeypatch.setattr(mask_rcnn.roi_head, 'test_cfg', test_cfg)
    monkeypatch.setitem(mask_rcnn.test_cfg, 'rcnn', test_cfg)
    data = batch(torch.randint(256, (3, 64, 96), dtype=torch.uint8), *[None] * views, scale=2)
    one = {key: value[0] for key, value in data.items()}
    (plain,) = mask_rcnn.test_step(one)
    plain = plain.pred_instances.clone()
    (merged,) = InstanceTTAModel(mask_rcnn).test_step(data)
    assert_same(merged.pred_instances, plain)
    assert plain.masks.shape[1:] == (32, 48)
    assert len(plain) == (0 if 'score_thr' in rcnn else test_cfg.max_per_img)
    assert not len(plain) or 0 < plain.masks.bool().float().mean() < 1


@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
def test_flipping_the_image_flips_the_result(mask_rcnn: nn.Module, direction: str) -> None:
    """The views of an image and of its mirror image are the same, so is what they merge to."""
    image = torch.randint(256, (3, 64, 96), dtype=torch.uint8)
    model = InstanceTTAModel(mask_rcnn)
    (straight,) = model.test_step(batch(image, *AXES))
    (mirrored,) = model.test_step(batch(image.flip(AXES[direction]), *AXES))
    (plain,) = mask_rcnn.test_step({key: value[0] for key, value in batch(image, None).items()})
    found, other = straight.pred_instances, mirrored.pred_instances
    assert len(found) == 10 and not torch.equal(found.scores, plain.pred_instances.scores)
    torch.testing.assert_close(found.scores, other.scores)
    torch.testing.assert_close(found.bboxes, flip(other.bboxes, direction, 64, 96))
    assert torch.equal(found.labels, other.labels)
    # A pixel at the threshold may fall on the other side of it.
    assert (found.masks == other.masks.flip(AXES[direction])).float().mean() > 0.999


@pytest.mark.parametrize('name', ['mmvheat.InstanceTTAModel', 'InstanceTTAModel'])
def test_configs_can_name_it(name: str) -> None:
    model = MODELS.build(dict(type=name, module=Detector(), tta_cfg=dict(max_per_img=5)))
    assert isinstance(model, InstanceTTAModel) and isinstance(model, DetTTAModel)
