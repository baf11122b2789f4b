"""What comparing an exported detector lets pass in half precision, and what it refuses."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from tiny_detectors import make_tiny_detector
from torch import nn

from mmvheat.export import Metadata, verify
from mmvheat.export.detection import exportable_detector
from mmvheat.export.graph import Shape
from mmvheat.export.metadata import HALF
from mmvheat.export.runtimes import Exported
from mmvheat.export.wrappers import ExportedDetector, ExportedModule, Input, exportable

pytest.importorskip('mmdet')

SIZE = (64, 96)


@pytest.fixture(scope='module')
def detector() -> ExportedDetector:
    """Mask R-CNN whose heat conduction matters, as after a training."""
    torch.manual_seed(0)
    model = make_tiny_detector('mask-rcnn_vheat-t_fpn_1x_coco')
    for stage in model.backbone.layers:
        for operator in (block.op for block in stage.blocks()):
            nn.init.uniform_(operator.to_k[0].bias, 0.1, 2)
            nn.init.normal_(operator.linear.weight, std=0.1)
            nn.init.normal_(operator.out_linear.weight, std=0.1)
    module = exportable_detector(model)
    return ExportedDetector(Input([0.0] * 3, [1.0] * 3, False, True), module).eval()


@pytest.fixture
def checks(detector: ExportedDetector, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Compare the detector with another that stands for a file of it."""

    def check(file: ExportedModule, precision: str) -> list[verify.Check]:
        told = Metadata(task='detection', outputs=detector.output_names, precision=precision)

        def run(image):
            with torch.inference_mode():
                return [output.numpy() for output in file(torch.from_numpy(image))]

        monkeypatch.setattr(verify, 'open_exported', lambda path: Exported(told, run))
        return verify.verify(Path('model.onnx'), detector, Shape(SIZE, 3), [SIZE])

    return check


@pytest.mark.parametrize('precision', HALF)
def test_half_precision_passes(precision: str, detector: ExportedDetector, checks: Callable):
    found = checks(exportable(detector, SIZE, getattr(torch, precision)), precision)
    assert {one.output for one in found} == {'boxes', 'scores', 'labels', 'masks'}
    assert all(one.passed for one in found)
    assert all(one.difference > 0 for one in found if one.output in ('boxes', 'scores'))


def other_channels(file: ExportedDetector) -> None:
    file.input.bgr = False


def other_mean(file: ExportedDetector) -> None:
    file.input.preprocess, file.input.mean[:] = True, 0.2
    file.input.forward = lambda image: Input.forward(file.input, image.permute(0, 2, 3, 1))


def no_norm(file: ExportedDetector) -> None:
    file.model.detector.backbone.outnorm1 = nn.Identity()


def no_norm_of_block(file: ExportedDetector) -> None:
    next(file.model.detector.backbone.layers[0].blocks()).norm2 = nn.Identity()


def no_heat(file: ExportedDetector) -> None:
    for stage in file.model.detector.backbone.layers:
        for block in stage.blocks():
            nn.init.zeros_(block.op.linear.weight)


def other_classes(file: ExportedDetector) -> None:
    layer = file.model.detector.roi_head.bbox_head.fc_cls
    layer.weight[:] = layer.weight.roll(1, 0)


def masks_of_other_classes(file: ExportedDetector) -> None:
    layer = file.model.detector.roi_head.mask_head.conv_logits
    layer.weight[:] = layer.weight.roll(1, 0)


FAULTS = other_channels, other_mean, no_norm, no_heat, other_classes, masks_of_other_classes


@pytest.mark.parametrize(
    ('fault', 'precision'),
    # One norm of a block is a smaller thing than the rounding of bfloat16.
    [*product(FAULTS, HALF), (no_norm_of_block, 'float16')],
)
def test_a_wrong_graph_is_refused(
    fault: Callable, precision: str, detector: ExportedDetector, checks: Callable
):
    file = exportable(detector, None)
    with torch.no_grad():
        fault(file)
    found = checks(file, precision)
    assert not all(one.passed for one in found)
