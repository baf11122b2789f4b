"""Exported detectors give what mmdet's own ``predict`` gives, in torch and in other runtimes."""

from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from tiny_detectors import make_tiny_detector, predict, tiny_detector_config
from torch import Tensor, nn

from mmvheat.errors import UserError
from mmvheat.export.detection import exportable_detector
from mmvheat.export.detection_difference import detection_difference
from mmvheat.export.runtimes import compile_openvino

MASK_RCNN = 'mask-rcnn_vheat-t_fpn_1x_coco'
RETINANET = 'retinanet_vheat-t_fpn_1x_coco'
SIZE = (75, 101)
VARIANTS = {
    'mask rcnn': (MASK_RCNN, {}),
    'retinanet': (RETINANET, {}),
    'faster rcnn': (
        MASK_RCNN,
        {'type': 'FasterRCNN', 'roi_head.mask_head': None, 'roi_head.mask_roi_extractor': None},
    ),
    'without classes': (
        MASK_RCNN,
        {
            'roi_head.bbox_head.reg_class_agnostic': True,
            'roi_head.mask_head.class_agnostic': True,
            'test_cfg.rcnn.nms.class_agnostic': True,
            'test_cfg.rpn.min_bbox_size': 9,
        },
    ),
    'softmax': (MASK_RCNN, {'rpn_head.loss_cls.use_sigmoid': False}),
    'few rows': (RETINANET, {'test_cfg.max_per_img': 2, 'test_cfg.min_bbox_size': -1}),
    'borders ignored': (MASK_RCNN, {'roi_head.bbox_head.bbox_coder.clip_border': False}),
}


def images(count: int) -> Tensor:
    """Noise, and of several images one that shows nothing."""
    made = torch.randn(count, 3, *SIZE) * torch.linspace(1, 2, count)[:, None, None, None]
    if count > 1:
        made[1] = 0
    return made


def pasted(masks: Tensor, boxes: Tensor) -> Tensor:
    """Masks inside boxes as masks of the image."""
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    return _do_paste_mask(masks[:, None], boxes, *SIZE, skip_empty=False)[0] >= 0.5


@pytest.mark.parametrize(
    ('name', 'count'),
    [('mask rcnn', 1), ('retinanet', 1), *((name, 3) for name in VARIANTS)],
)
def test_gives_what_mmdet_predicts(name: str, count: int):
    detector = make_tiny_detector(*VARIANTS[name])
    image = images(count)
    expected = predict(detector, image)
    module = exportable_detector(detector).eval()
    with torch.no_grad():
        outputs = dict(zip(module.output_names, module(image), strict=True))
    assert outputs['boxes'].shape == (count, 2 if name == 'few rows' else 20, 4)
    assert ('masks' in outputs) == ('masks' in expected[0])
    assert [len(one) > 0 for one in expected] == [number != 1 for number in range(count)]
    for number, one in enumerate(expected):
        used = len(one)
        found = {key: rows[number, :used] for key, rows in outputs.items()}
        torch.testing.assert_close(found['boxes'], one.bboxes)
        torch.testing.assert_close(found['scores'], one.scores)
        assert found['labels'].tolist() == one.labels.tolist()
        if 'masks' in found and used:
            assert pasted(found['masks'], found['boxes']).equal(one.masks)
        unused = {key: rows[number, used:] for key, rows in outputs.items()}
        assert not any(rows.any() for key, rows in unused.items() if key != 'labels')
        assert (unused['labels'] == -1).all()


@pytest.fixture(scope='module')
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One detector of each kind in every form: three images, the second of them empty."""
    torch.manual_seed(0)
    forms = {}
    for name in (MASK_RCNN, RETINANET):
        module = exportable_detector(make_tiny_detector(name)).eval()
        image = images(3)
        with torch.no_grad():
            expected = module(image)
            module.detector.backbone.fold(SIZE)
            graph = torch.export.export(module, (image,), strict=False)
            traced = torch.jit.trace(module, image, check_trace=False)
            from_graph = graph.module()
            path = tmp_path_factory.mktemp('exported') / 'detector.onnx'
            onnx = torch.onnx.export(graph, dynamo=True, optimize=False, verbose=False)
        onnx.save(path)
        forms[name] = dict(
            names=module.output_names, image=image, expected=expected, path=path,
            torch_export=from_graph, torchscript=traced,
        )  # fmt: skip
    return forms


def run(form: dict[str, Any], runtime: str, image: Tensor) -> list[np.ndarray]:
    """Run an exported detector."""
    if runtime == 'onnxruntime':
        onnxruntime = pytest.importorskip('onnxruntime')
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(form['path'], options)
        return session.run(None, {session.get_inputs()[0].name: image.numpy()})
    if runtime == 'openvino':
        openvino = pytest.importorskip('openvino')
        compiled = compile_openvino(
            openvino.Core(), form['path'], {'INFERENCE_PRECISION_HINT': 'f32'}
        )
        return list(compiled([image.numpy()]).values())
    with torch.no_grad():
        return [output.numpy() for output in form[runtime](image)]


@pytest.mark.slow
@pytest.mark.parametrize('runtime', ['onnxruntime', 'torch_export', 'torchscript', 'openvino'])
@pytest.mark.parametrize('name', [MASK_RCNN, RETINANET])
def test_runtimes_agree(exported: dict[str, Any], name: str, runtime: str):
    form = exported[name]
    # The images it was exported with, and the same in another order: nothing of them is kept.
    for order in ([0, 1, 2], [2, 0, 1]):
        outputs = run(form, runtime, form['image'][order])
        expected = [output[order].numpy() for output in form['expected']]
        difference = detection_difference(
            dict(zip(form['names'], expected, strict=True)),
            dict(zip(form['names'], outputs, strict=True)),
        )
        assert difference.matched == (expected[2] >= 0).sum() > 5, str(difference)
        assert not difference.unmatched and not difference.ties
        assert difference.score < 1e-4 and difference.mask < 1e-4
        assert difference.box < 1e-4 * max(SIZE)


@pytest.mark.parametrize(
    ('name', 'changes', 'word'),
    [
        ('cascade-mask-rcnn_vheat-t_fpn_1x_coco', None, 'CascadeRCNN'),
        (MASK_RCNN, {'test_cfg.rcnn.nms.type': 'soft_nms'}, 'soft_nms'),
        (MASK_RCNN, {'test_cfg.rcnn.max_per_img': -1}, 'max_per_img=-1'),
        (MASK_RCNN, {'roi_head.bbox_roi_extractor.type': 'GenericRoIExtractor'}, 'GenericRoI'),
        (RETINANET, {'bbox_head.bbox_coder.add_ctr_clamp': True}, 'add_ctr_clamp'),
    ],
)
def test_says_what_cannot_be_exported_whole(name: str, changes: dict | None, word: str):
    if name.startswith('cascade'):
        detector = type(word, (nn.Module,), {})()
    else:
        with DefaultScope.overwrite_default_scope('mmdet'):
            detector = MODELS.build(tiny_detector_config(name, changes))
    with pytest.raises(UserError, match=f'{word}.*export backbone and neck'):
        exportable_detector(detector)
