"""Agreement: what it measures, and that no part of a model escapes the comparison."""

import pytest
import torch
from torch import nn


def test_errors_are_relative_and_of_the_worst(load):
    agreement, x = load('agreement'), torch.tensor([1.0, -4.0])
    assert agreement.worst_error(x + 0.04, x) == pytest.approx(0.01)
    # A map that agrees does not make up for one that does not.
    assert agreement.worst_error([x, x + 1], [x, x]) == pytest.approx(0.25)
    assert agreement.worst_error(x[:1], x) == agreement.distance([x], [x, x]) == float('inf')
    assert agreement.distance([2 * x, x[:1]], [x, x[:1]]) == pytest.approx((17 / 18) ** 0.5)
    for wrong in (x * float('nan'), x[:1], x + 1):
        with pytest.raises(agreement.Disagreement, match=r'^a disagrees with b: relative error'):
            agreement.require_agreement('a', 'b', agreement.worst_error([x, wrong], [x, x]), 1e-3)
    assert agreement.require_agreement('a', 'b', 1e-4, 1e-3)['error'] == 1e-4


PARTS = ['freq_embed', 'op.to_k', 'op.dwconv', 'op.out_linear', 'norm1', 'mlp', 'outnorm']


@pytest.mark.parametrize('path', ['classifier', 'detection'])
@pytest.mark.parametrize('part', PARTS)
def test_every_part_shows_in_what_is_compared(load, part, path):
    """With the weights of a fresh model a wrong operator would be below the tolerance."""
    models, agreement = load('models'), load('agreement')
    ours, wrong = (models.build_model('vheat', 'micro', (32, 32), path).eval() for _ in range(2))
    with torch.no_grad():
        changed = [parameter for name, parameter in wrong.named_parameters() if part in name]
        for parameter in changed:
            parameter.mul_(1.3)
        images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        error = agreement.worst_error(wrong(images), ours(images))
    assert changed and error > 3 * agreement.OUTPUT_TOLERANCES[torch.float32]


def test_bytes_kept_for_backward(load):
    count = load('time_backbone').saved_for_backward
    linear = nn.Linear(16, 4)
    x = torch.randn(8, 16, requires_grad=True)
    # The input for the weight's gradient; the weight for the input's is a parameter.
    assert count(linear, lambda: linear(x)) == 8 * 16 * 4
    # Both factors of a product of a tensor with itself are one storage.
    assert count(linear, lambda: x * x) == 8 * 16 * 4
    assert count(linear, lambda: torch.sigmoid(linear(x))) == 8 * 16 * 4 + 8 * 4 * 4
