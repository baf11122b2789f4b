"""The backbone and whole classifiers under torch.compile: no graph break, few compilations."""

import os
from shutil import which

import pytest
import torch
from tiny_variants import VARIANTS
from torch._dynamo.testing import CompileCounterWithBackend

from mmvheat.models import VHeat
from mmvheat.ops import kernels_available, use_kernels

ARCHES = {
    'tiny_like': dict(depths=[1, 1], dims=8),
    'base_like': dict(depths=[1, 2], dims=8, post_norm=True, layer_scale_init_value=0.5),
}


FULL = os.environ.get('MMVHEAT_FULL') == '1'


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def build(arch='base_like', **kwargs) -> VHeat:
    torch.manual_seed(0)
    return VHeat(ARCHES[arch], img_size=32, out_indices=(0, 1), **kwargs)


def compiled(model):
    counter = CompileCounterWithBackend('aot_eager')
    return torch.compile(model, backend=counter, fullgraph=True), counter


def images(batch, height=32, width=32):
    x = torch.randn(batch, 3, height, width)
    torch._dynamo.mark_dynamic(x, 0)
    return x


@pytest.mark.parametrize(
    ('arch', 'precision'),
    [('tiny_like', torch.bfloat16), ('base_like', None)]
    + [('tiny_like', None), ('base_like', torch.bfloat16)] * FULL,
    ids=str,
)
def test_inference_compiles_once_for_a_changing_batch(arch, precision):
    model = build(arch).eval()
    fast, counter = compiled(model)
    with torch.no_grad(), torch.autocast('cpu', precision, enabled=precision is not None):
        for batch in (2, 5, 3):
            x = images(batch)
            for out, expected in zip(fast(x), model(x), strict=True):
                atol = 1e-5 if precision is None else 0.1
                torch.testing.assert_close(out, expected, atol=atol, rtol=1e-5)
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ('arch', 'with_cp'),
    [('tiny_like', False), ('base_like', True)]
    + [('tiny_like', True), ('base_like', False)] * FULL,
)
def test_training_compiles_once_for_a_changing_batch(arch, with_cp):
    model = build(arch, with_cp=with_cp, drop_path_rate=0.0).train()
    fast, counter = compiled(model)
    parameters = [p for n, p in model.named_parameters() if 'outnorm0' not in n]
    for batch in (2, 5, 3):
        x = images(batch)
        grads = torch.autograd.grad(fast(x)[1].square().sum(), parameters)
        expected = torch.autograd.grad(model(x)[1].square().sum(), parameters)
        for grad, wanted in zip(grads, expected, strict=True):
            torch.testing.assert_close(grad, wanted, atol=1e-3, rtol=1e-3)
    assert counter.frame_count == 1


@pytest.mark.slow
def test_stochastic_depth_and_an_embedding_of_another_size_do_not_break_the_graph():
    model = build(drop_path_rate=0.5).train()
    fast, _ = compiled(model)
    fast(images(4, 40, 24))[1].sum().backward()


@pytest.mark.slow
def test_a_changing_image_size_costs_one_more_compilation():
    model = build('tiny_like').eval()
    fast, counter = compiled(model)
    with torch.no_grad():
        for height, width in [(32, 48), (40, 72), (64, 33), (47, 80)]:
            x = images(2, height, width)
            for out, expected in zip(fast(x), model(x), strict=True):
                torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 2


def test_the_inference_form_compiles_too():
    model = build().eval().fold()
    fast, _ = compiled(model)
    with torch.no_grad():
        x = images(3)
        torch.testing.assert_close(fast(x)[1], model(x)[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('variant', VARIANTS)
def test_variants_compile_once_for_a_changing_batch(variant):
    torch.manual_seed(0)
    arch = dict(depths=(1,), dims=8) | VARIANTS[variant]
    model = VHeat(arch, img_size=(24, 32), out_indices=-1).eval()
    fast, counter = compiled(model)
    with torch.no_grad():
        for batch in (2, 5):
            x = images(batch)
            torch.testing.assert_close(fast(x)[0], model(x)[0], atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 1


@pytest.mark.slow
def test_a_whole_classifier():
    from mmpretrain.models import ImageClassifier

    backbone = dict(type='mmvheat.VHeat', arch=ARCHES['tiny_like'], img_size=32, out_indices=(1,))
    head = dict(
        type='LinearClsHead', num_classes=5, in_channels=16, loss=dict(type='CrossEntropyLoss')
    )
    model = ImageClassifier(backbone, neck=dict(type='GlobalAveragePooling'), head=head).eval()
    fast, counter = compiled(model)
    with torch.no_grad():
        for batch in (2, 7):
            x = images(batch)
            torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 1
    labels = torch.tensor([1, 4])

    def loss(x):
        return torch.nn.functional.cross_entropy(model(x), labels)

    model.train()
    torch.compile(loss, backend='aot_eager', fullgraph=True)(torch.randn(2, 3, 32, 32)).backward()
    assert model.backbone.layers[0][0].op.to_k[0].weight.grad.abs().sum() > 0


@pytest.mark.slow
@pytest.mark.skipif(not any(map(which, ('g++', 'clang++'))), reason='needs a C++ compiler')
def test_inductor():
    model = build('base_like' if FULL else 'tiny_like', drop_path_rate=0.0)
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)[1]
    expected_grad = torch.autograd.grad(expected.sum(), model.freq_embed[0])[0]
    # Training with dynamic maps is what inductor fails on.
    model.compile(dynamic=False)
    out = model(x)[1]
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
    grad = torch.autograd.grad(out.sum(), model.freq_embed[0])[0]
    torch.testing.assert_close(grad, expected_grad, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize('training', [False, True])
def test_gpu_inductor(training):
    model = build(drop_path_rate=0.0).cuda().train(training)
    x = torch.randn(4, 3, 32, 32, device='cuda')
    with torch.autocast('cuda', torch.bfloat16), torch.set_grad_enabled(training):
        expected = model(x)[1]
        model.compile(fullgraph=True, dynamic=False)
        torch.testing.assert_close(model(x)[1], expected, atol=0.1, rtol=0.05)


@pytest.mark.skipif(not kernels_available('cpu'), reason="needs Triton's interpreter")
def test_the_fused_kernels_do_not_break_the_graph():
    model, graphs = build().eval(), []

    def backend(graph, inputs):
        graphs.append(graph.code)
        return graph.forward

    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        expected = model(x)[1]
        with use_kernels():
            out = torch.compile(model, backend=backend, fullgraph=True)(x)[1]
    torch.testing.assert_close(out, expected, atol=0.1, rtol=0.05)
    (code,) = graphs
    assert code.count('mmvheat.heat_conduct') == code.count('mmvheat.norm_gate') == 3
