"""An exported file in a config's test: what it makes of outputs for the libraries' metrics."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from tiny_onnx import BOXES, MASKS, write_tiny_onnx

from mmvheat.errors import UserError
from mmvheat.export.exported_model import ExportedModel


class Sample(BaseDataElement):
    """What ExportedModel asks of mmpretrain's data sample."""

    def set_pred_score(self, value: torch.Tensor) -> 'Sample':
        self.pred_score = value
        return self

    def set_pred_label(self, value: torch.Tensor) -> 'Sample':
        self.pred_label = value
        return self


def predict(path: str, images: torch.Tensor, settings: dict | None = None, **metainfo: object):
    samples = [Sample(metainfo=metainfo) for _ in images]
    return ExportedModel(path, **settings or {})(images, samples, mode='predict')


@pytest.mark.parametrize('preprocess', [False, True], ids=['floats', 'bytes'])
@pytest.mark.parametrize('batch', ['dynamic', 2])
def test_a_classifier_in_batches_that_the_file_takes(tmp_path, batch, preprocess):
    path = write_tiny_onnx(
        tmp_path / 'model.onnx',
        'classification',
        batch=batch,
        preprocess=preprocess,
        mean=[100.0, 50.0, 10.0],
        std=[50.0, 60.0, 70.0],
    )
    pixels = torch.randint(0, 256, (3, 3, 4, 6)).float()
    mean, std = torch.tensor([[100.0, 50, 10], [50, 60, 70]])[..., None, None]
    images = (pixels - mean) / std
    seen = pixels if preprocess else images
    for sample, image in zip(predict(path, images), seen, strict=True):
        expected = image.mean((1, 2)).softmax(0)
        torch.testing.assert_close(sample.pred_score, expected)
        assert sample.pred_label.tolist() == [expected.argmax()]


@pytest.mark.parametrize('size', ['dynamic', [16, 16]])
@pytest.mark.parametrize(
    'test_cfg',
    [dict(mode='whole'), dict(mode='slide', crop_size=(9, 10), stride=(6, 7))],
    ids=['whole', 'slide'],
)
def test_logits_lose_their_padding_and_get_the_original_size(tmp_path, test_cfg, size):
    """Windows of the image that overlap, averaged, are the image again."""
    path = write_tiny_onnx(tmp_path / 'model.onnx', 'segmentation', size=size)
    images = torch.rand(2, 3, 12, 15)
    settings = dict(test_cfg=test_cfg)
    found = predict(path, images, settings, ori_shape=(20, 24), img_padding_size=[0, 3, 0, 2])
    expected = F.interpolate(images[..., :10, :12], (20, 24), mode='bilinear')
    for sample, logits in zip(found, expected, strict=True):
        torch.testing.assert_close(sample.seg_logits.data, logits)
        assert (sample.pred_sem_seg.data == logits.argmax(0)).all()


def test_boxes_and_masks_get_the_original_size(tmp_path):
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    path = write_tiny_onnx(tmp_path / 'model.onnx', 'detection', batch=1)
    found = predict(
        path,
        torch.rand(2, 3, 16, 24),
        ori_shape=(32, 48),
        img_shape=(14, 24),
        scale_factor=(0.5, 0.5),
    )
    boxes = torch.tensor(BOXES[:2])
    boxes[1, 3] = 14  # Below there is padding.
    masks = _do_paste_mask(torch.from_numpy(MASKS[:2, None]), boxes * 2, 32, 48, False)[0] >= 0.5
    for sample in found:
        instances = sample.pred_instances
        torch.testing.assert_close(instances.bboxes, boxes * 2)
        assert instances.labels.tolist() == [2, 0]
        torch.testing.assert_close(instances.scores, torch.tensor([0.9, 0.2]))
        assert masks.any() and (instances.masks == masks).all()


MISTAKES = {
    'task': (dict(task='features'), 'gives features: there is nothing to evaluate'),
    'large': (dict(size=[8, 8]), 'takes images of 8 x 8, the test gives 12 x 15'),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_a_mistake_is_one_line(tmp_path: Path, name):
    metadata, message = MISTAKES[name]
    path = write_tiny_onnx(tmp_path / 'model.onnx', 'segmentation', **metadata)
    with pytest.raises(UserError, match=message):
        predict(path, torch.rand(1, 3, 12, 15))


def test_it_does_not_train(tmp_path):
    path = write_tiny_onnx(tmp_path / 'model.onnx', 'segmentation')
    with pytest.raises(ValueError, match="'loss'"):
        ExportedModel(path)(torch.rand(1, 3, 4, 4), mode='loss')
    outputs = ExportedModel(path)(torch.ones(1, 3, 4, 4))
    assert outputs['logits'].shape == (1, 3, 4, 4)
