"""Numbers, names and sizes of the published model."""

import pytest
import torch
from golden import (
    INDEX,
    MODELS,
    golden_arch,
    golden_npz,
    golden_state,
    golden_tensor,
)
from torch import Tensor, nn

from mmvheat.models import VHeat

TAGS = ('square', 'bigger', 'wide', 'tall', 'odd')


def golden_backbone(name: str) -> VHeat:
    """A golden model with its weights, loaded strictly."""
    model = VHeat(golden_arch(name), img_size=INDEX[name]['kwargs']['img_size'])
    state = golden_state(name)
    backbone = {key: value for key, value in state.items() if not key.startswith('classifier.')}
    model.load_state_dict(backbone, strict=True)
    return model.eval()


def assert_golden(result: Tensor, golden) -> None:
    expected = torch.as_tensor(golden, dtype=result.dtype)
    atol = 1e-4 * max(1, expected.abs().max().item())
    torch.testing.assert_close(result.detach(), expected, atol=atol, rtol=0)


@pytest.mark.parametrize('tag', TAGS)
@pytest.mark.parametrize('name', MODELS)
def test_features(name, tag):
    golden = golden_npz(name)
    size = tuple(golden[f'features/{tag}/size'])
    outs = golden_backbone(name)(golden_tensor(2, (1, 3, *size)))
    assert isinstance(outs, tuple) and len(outs) == 4
    for i, out in enumerate(outs):
        assert out.is_contiguous()
        assert_golden(out, golden[f'features/{tag}/out{i}'])


@pytest.mark.parametrize('name', MODELS)
def test_classifier(name):
    """The published classifier is a norm, a mean and a linear layer behind the last map."""
    golden, state, model = golden_npz(name), golden_state(name), golden_backbone(name)
    side, dim = INDEX[name]['kwargs']['img_size'], model.arch.dims[-1]
    images = golden_tensor(1, (2, 3, side, side))

    head = nn.Linear(dim, INDEX[name]['num_classes'])
    renamed = {
        key.replace('classifier.0', 'backbone.outnorm3').replace('classifier.3', 'head'): value
        for key, value in state.items()
        if not key.startswith('outnorm')
    }
    model = VHeat(model.arch, img_size=side, out_indices=(3,)).eval()
    classifier = nn.ModuleDict(dict(backbone=model, head=head))
    published = {
        key if key.split('.')[0] in classifier else f'backbone.{key}': value
        for key, value in renamed.items()
    }
    classifier.load_state_dict(published, strict=True)
    logits = head(model(images)[0].mean((2, 3)))
    assert_golden(logits, golden['cls/logits'])
    assert_golden(logits, golden['cls/logits_infer_mode'])

    model.outnorm3 = nn.Identity()
    assert_golden(model(images)[0], golden['cls/last_map'])


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('name', MODELS)
def test_gradients(name, with_cp):
    golden, model = golden_npz(name), golden_backbone(name)
    for stage in model.layers:
        stage.with_cp = with_cp
    side = INDEX[name]['kwargs']['img_size']
    outs = model(golden_tensor(2, (1, 3, side, side + 64)))
    loss = sum((out * golden_tensor(100 + i, out.shape)).mean() for i, out in enumerate(outs))
    loss.backward()
    assert_golden(loss, golden['grad/loss'])
    parameters = dict(model.named_parameters())
    keys = [key for key in golden if key.startswith('grad/') and key != 'grad/loss']
    assert len(keys) >= 15
    for key in keys:
        expected = torch.from_numpy(golden[key])
        gradient = parameters[key.removeprefix('grad/')].grad
        error = (gradient - expected).abs().max() / expected.abs().max()
        assert error <= 1e-3, f'{key}: {error:.1e}'


@pytest.mark.parametrize('name', MODELS)
def test_key_set_is_the_published_one(name):
    model = golden_backbone(name)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    published = INDEX[name]['shapes']
    assert shapes == {k: v for k, v in published.items() if not k.startswith('classifier.')}
    assert not list(model.buffers())
    state = golden_state(name)
    head = sum(value.numel() for key, value in state.items() if key.startswith('classifier.'))
    assert sum(p.numel() for p in model.parameters()) + head == INDEX[name]['n_params']


@pytest.mark.parametrize(
    ('arch', 'millions'), [('tiny', 30.853), ('small', 52.220), ('base', 92.132)]
)
def test_parameters_of_the_published_classifiers(arch, millions):
    with torch.device('meta'):
        model = VHeat(arch, out_indices=(3,))
        classifier = nn.ModuleList((model, nn.Linear(model.out_channels[0], 1000)))
    count = sum(p.numel() for p in classifier.parameters())
    assert round(count / 1e6, 3) == millions


@pytest.mark.gpu
@pytest.mark.parametrize('name', MODELS)
def test_features_on_a_gpu(name, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    monkeypatch.setattr(torch.backends.cuda.matmul, 'allow_tf32', False)
    golden = golden_npz(name)
    images = golden_tensor(2, (1, 3, *golden['features/odd/size'])).cuda()
    for i, out in enumerate(golden_backbone(name).cuda()(images)):
        assert_golden(out.cpu(), golden[f'features/odd/out{i}'])
