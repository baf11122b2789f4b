import pytest
import torch
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from mmvheat.engine import CPUAmpOptimWrapper


class _Backbone(nn.Linear):
    def forward(self, x):
        if x.isnan().any():
            raise ValueError('nan')
        out = super().forward(x)
        self.dtype = out.dtype
        return (out,)


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.neck, self.head = _Backbone(4, 4), None, nn.Linear(4, 1)

    def forward(self, x):
        (feature,) = self.backbone(x)
        self.feature_dtype = feature.dtype
        out = self.head(feature)
        self.head_dtype = out.dtype
        return out.sum()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return _Model()


@pytest.fixture
def wrapper(model):
    config = dict(
        type='mmvheat.CPUAmpOptimWrapper', optimizer=torch.optim.SGD(model.parameters(), 1.0)
    )
    return OPTIM_WRAPPERS.build(config)


def test_only_features_are_computed_in_bfloat16(model, wrapper):
    x = torch.randn(3, 4)
    plain = torch.autograd.grad(model(x), list(model.parameters()))
    with wrapper.optim_context(model):
        loss = model(x)
    assert isinstance(wrapper, CPUAmpOptimWrapper)
    assert model.backbone.dtype is torch.bfloat16
    assert model.feature_dtype is model.head_dtype is torch.float32
    loss.backward()
    for parameter, gradient in zip(model.parameters(), plain, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=2e-2, atol=2e-2)


def test_leaves_nothing_behind(model, wrapper):
    with wrapper.optim_context(model):
        with pytest.raises(ValueError, match='nan'):
            model(torch.full((1, 4), torch.nan))
        assert not torch.is_autocast_enabled('cpu')
    model(torch.randn(1, 4))
    assert model.backbone.dtype is torch.float32
