"""The inference form: the same function at one size."""

import copy

import pytest
import torch

from mmvheat.models import VHeat

ARCH = dict(depths=[1, 2], dims=8, post_norm=True, layer_scale_init_value=0.5)


def run(model, x):
    with torch.no_grad():
        return model(x)[1]


@pytest.mark.parametrize('size', [None, 32, (40, 21)])
def test_it_computes_the_same_at_its_one_size(model, size):
    height, width = (size or 32,) * 2 if not isinstance(size, tuple) else size
    x, other = torch.randn(2, 3, height, width), torch.randn(1, 3, 24, 48)
    expected = run(model, x)
    assert model.fold(size) is model
    torch.testing.assert_close(run(model, x), expected, atol=1e-6, rtol=1e-6)
    names = set(model.state_dict())
    assert not any('to_k' in name or 'freq_embed' in name for name in names)
    assert sum(name.endswith('.op.k_exp') for name in names) == 3
    with pytest.raises(ValueError, match=f'folded for images of {height} x {width}, got 24 x 48'):
        model(other)


def test_a_copy_made_before_keeps_the_training_form(model):
    x = torch.randn(1, 3, 24, 48)
    expected, clone = run(model, x), copy.deepcopy(model)
    model.fold()
    torch.testing.assert_close(run(clone, x), expected, atol=1e-6, rtol=1e-6)


def test_a_folded_model_moves_copies_and_reloads(model):
    x = torch.randn(1, 3, 32, 32)
    expected = run(model.fold(), x)
    assert torch.equal(run(copy.deepcopy(model), x), expected)
    built = VHeat(ARCH, img_size=32, out_indices=(0, 1), inference_form=True).eval()
    built.load_state_dict(model.state_dict())
    assert torch.equal(run(built, x), expected)
    assert run(model.double(), x.double()).dtype == torch.float64
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_every_module_and_parameter_of_a_folded_model_obeys(model):
    """Nothing is hidden from ``train()``, ``eval()``, ``requires_grad_()`` and the optimizer."""
    model.fold().requires_grad_(True).train()
    assert all(module.training for module in model.modules())
    model(torch.randn(2, 3, 32, 32))[1].sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == ('outnorm0' not in name), name
    model.requires_grad_(False).eval()
    assert not any(module.training for module in model.modules())
    assert not model(torch.randn(2, 3, 32, 32))[1].requires_grad


def test_a_folded_model_in_training_says_so_once(model, log):
    model.train().eval().fold().eval()
    assert not log
    model.train(), model.eval(), model.train()
    assert len(log) == 1 and 'folded for inference: its decays (k_exp)' in log[0]
    assert '\n' not in log[0]
    VHeat(ARCH, img_size=32, out_indices=(0, 1), inference_form=True).eval()
    assert len(log) == 1


def test_it_does_not_say_so_where_the_decays_are_trained(model, log):
    model.fold().requires_grad_(True).train()
    assert not log


def test_the_inference_form_is_for_inference(model):
    model.fold().train()
    model(torch.randn(2, 3, 32, 32))[1].sum().backward()
    assert all(block.op.k_exp.grad is None for block in model.layers[1].blocks())


def test_folding_twice_is_refused(model):
    with pytest.raises(ValueError, match='folded already'):
        model.fold().fold()


def test_it_has_fewer_parameters_and_builds_on_the_meta_device():
    with torch.device('meta'):
        folded = VHeat('base', out_indices=(3,), inference_form=True)
        model = VHeat('base', out_indices=(3,))
    count = [sum(p.numel() for p in m.parameters()) for m in (folded, model)]
    # With the head's 1,025,000: 87.499 and 92.132 M, as measured on the published code.
    assert [round((c + 1_025_000) / 1e6, 3) for c in count] == [87.499, 92.132]
