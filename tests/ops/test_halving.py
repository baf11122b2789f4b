import pytest
import torch
import torch.nn.functional as F

from mmvheat.layers import Downsample, blocks
from mmvheat.ops.dispatch import bf16_is_supported, linear_pointwise
from mmvheat.ops.halving import halve_by_product, halving_by_product_is_faster

pytestmark = pytest.mark.skipif(linear_pointwise is None, reason='this torch has no fused product')


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (1, 7), (7, 7), (5, 9), (3, 200)])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_it_is_a_convolution(height: int, width: int, layout: torch.memory_format):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, height, width), torch.randn(5, 3, 3, 3)
    with torch.no_grad():
        result = halve_by_product(x.contiguous(memory_format=layout), weight).double()
    truth = F.conv2d(x.double(), weight.double(), stride=2, padding=1)
    torch.testing.assert_close(result, truth, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('inside', ['float32', 'autocast', 'bfloat16'])
def test_few_pixels_are_halved_by_the_product(inside: str, monkeypatch: pytest.MonkeyPatch):
    if inside != 'float32' and not (bf16_is_supported and bf16_is_supported()):
        pytest.skip('no bfloat16 here')
    torch.manual_seed(0)
    layer, x = Downsample(4, 96).eval(), torch.randn(1, 6, 7, 4)
    with torch.no_grad():
        truth = layer.double()(x.double())
    layer = layer.bfloat16() if inside == 'bfloat16' else layer.float()
    x = x.bfloat16() if inside == 'bfloat16' else x
    called = []

    def note(*arguments: torch.Tensor) -> torch.Tensor:
        called.append(len(arguments))
        return halve_by_product(*arguments)

    monkeypatch.setattr(blocks, 'halve_by_product', note)
    with torch.autocast('cpu', torch.bfloat16, enabled=inside == 'autocast'):
        with torch.no_grad():
            result = layer(x)
        assert called == [2]
        # Gradients take the convolution, which the autocast and all else know.
        other = layer(x)
    assert called == [2] and result.dtype is other.dtype
    tolerance = 1e-5 if inside == 'float32' else 5e-2
    torch.testing.assert_close(result.double(), truth, atol=tolerance, rtol=tolerance)


def test_many_pixels_or_transforms_take_the_convolution():
    weight = Downsample(4, 96)[0].weight
    x = torch.randn(1, 4, 6, 7)
    asked = []
    with torch.no_grad():
        assert halving_by_product_is_faster(x, weight)
        assert not halving_by_product_is_faster(x.expand(2, -1, -1, -1), weight)
        assert not halving_by_product_is_faster(x.double(), weight.double())

        def inside(one: torch.Tensor) -> torch.Tensor:
            asked.append(halving_by_product_is_faster(one, weight))
            return one

        torch.func.vmap(inside)(x[None])
    assert asked == [False]
    assert not halving_by_product_is_faster(x, weight)
