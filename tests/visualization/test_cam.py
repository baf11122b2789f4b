"""Class activation maps by the package grad-cam."""

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from mmvheat.errors import UserError
from mmvheat.models import VHeatClassifier
from mmvheat.visualization import CAM_METHODS, class_activation


@pytest.fixture
def model() -> VHeatClassifier:
    return VHeatClassifier(dict(depths=(1, 1), dims=8), num_classes=3, img_size=64).eval()


@pytest.mark.parametrize('method', CAM_METHODS)
@pytest.mark.parametrize('stage', [0, -1])
def test_every_image_has_a_map_of_its_size(model, method: str, stage: int) -> None:
    pytest.importorskip('pytorch_grad_cam')
    images = torch.randn(2, 3, 64, 48)
    maps = class_activation(
        lambda x: model(x)[:, 1], model.backbone, images, stage=stage, method=method
    )
    assert maps.shape == (2, 64, 48)
    np.testing.assert_allclose(maps.min((1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(maps.max((1, 2)), 1, atol=1e-5)


def test_grad_cam_is_the_weighted_sum_of_the_channels(model: VHeatClassifier) -> None:
    pytest.importorskip('pytorch_grad_cam')
    backbone, images = model.backbone, torch.randn(1, 3, 64, 64)

    def score(x: Tensor) -> Tensor:
        return model(x)[:, 2]

    found = class_activation(score, backbone, images)[0]
    maps = []
    hook = backbone.layers[-1].register_forward_hook(lambda *call: maps.append(call[-1]))
    (gradient,) = torch.autograd.grad(score(images).sum(), maps)
    hook.remove()
    weighted = (maps[0] * gradient.mean((1, 2), keepdim=True)).sum(-1)[0].relu()
    expected = torch.nn.functional.interpolate(
        weighted[None, None], size=(64, 64), mode='bilinear'
    )[0, 0]
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(found, expected.detach(), atol=0.02)


def test_mistakes(model: VHeatClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(1, 3, 64, 64)

    def look(score=lambda x: model(x)[:, 0], **options: object) -> None:
        class_activation(score, model.backbone, images, **options)

    with pytest.raises(UserError, match="method is one of grad, eigen, got 'heat'"):
        look(method='heat')
    with pytest.raises(UserError, match='the backbone has no stage 2'):
        look(stage=2)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, 'pytorch_grad_cam', None)
        with pytest.raises(UserError, match='grad-cam cannot be imported .* `visualization`'):
            look()
    pytest.importorskip('pytorch_grad_cam')
    with pytest.raises(UserError, match='scores without a gradient, which Grad-CAM needs'):
        look(lambda x: model(x)[:, 0].detach())
    look(lambda x: model(x)[:, 0].detach(), method='eigen')
