"""The operator as a layer: the published numbers, and what autocast may not touch."""

import pytest
import torch
from golden import golden_npz, golden_tensor, golden_weight

from mmvheat.layers import Heat2D


def golden_layer() -> Heat2D:
    layer = Heat2D(6)
    shapes = {name: tensor.shape for name, tensor in layer.state_dict().items()}
    layer.load_state_dict({n: golden_weight(f'op.{n}', s) for n, s in shapes.items()}, strict=True)
    return layer


@pytest.mark.parametrize('tag', ['8x8', '5x9', '1x7', '16x4'])
def test_output_is_that_of_the_published_code(tag):
    height, width = map(int, tag.split('x'))
    x = golden_tensor(3, (2, 6, height, width)).permute(0, 2, 3, 1)
    embed = 0.5 * golden_tensor(4, (height, width, 6))
    expected = torch.from_numpy(golden_npz('heat_operator')[f'{tag}/output'])
    atol = 1e-4 * max(1, expected.abs().max().item())
    for dtype in (torch.float32, torch.float64):
        output = golden_layer().to(dtype)(x.to(dtype), embed.to(dtype)).permute(0, 3, 1, 2)
        torch.testing.assert_close(output.float(), expected, atol=atol, rtol=0)


def test_names_are_the_published_ones():
    assert list(Heat2D(4).state_dict()) == [
        f'{name}.{parameter}'
        for name in ('dwconv', 'linear', 'out_norm', 'out_linear', 'to_k.0')
        for parameter in ('weight', 'bias')
    ]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_autocast_leaves_the_diffusivity_wide(dtype):
    layer, x, embed = golden_layer(), torch.randn(2, 12, 9, 6), torch.randn(12, 9, 6)
    output, k = layer(x, embed), layer.diffusivity(embed)
    assert (k >= 0).all() and k.count_nonzero()
    with torch.autocast('cpu', dtype):
        narrow = layer(x, embed)
        torch.testing.assert_close(layer.diffusivity(embed), k)
    assert narrow.dtype == dtype
    torch.testing.assert_close(narrow.float(), output, atol=0.1, rtol=0.05)


def test_a_half_layer_predicts_the_diffusivity_in_single():
    embed = torch.randn(5, 4, 6).bfloat16()
    layer = golden_layer().bfloat16()
    k = layer.diffusivity(embed)
    assert k.dtype == torch.float32
    torch.testing.assert_close(k, layer.float().diffusivity(embed.float()))


def test_gradients_reach_the_map_the_embedding_and_all_weights():
    torch.manual_seed(1)
    layer = Heat2D(2).double()
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    embed = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    parameters = dict(layer.named_parameters())

    def run(x, embed, *values):
        named = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(layer, named, (x, embed))

    assert torch.autograd.gradcheck(run, (x, embed, *parameters.values()))
    layer(x, embed).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in (embed, *parameters.values()))


def test_an_embedding_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r'got \(1, 4, 5, 6\) and \(5, 4, 6\)$'):
        golden_layer()(torch.zeros(1, 4, 5, 6), torch.zeros(5, 4, 6))
