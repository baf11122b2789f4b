"""The backbone's contract: sizes, modes, stages, checkpoints, copies, bad input."""

import copy
import pickle
import re

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.runner import load_checkpoint, load_state_dict
from torch import Tensor, nn

from mmvheat.errors import UserError
from mmvheat.models import ARCHS, VHeat, VHeatArch
from mmvheat.ops import resize_freq_embed

SMALL = dict(depths=(1, 1, 2, 1), dims=8, post_norm=True, layer_scale_init_value=0.5)
PLAIN = dict(depths=[1, 2], dims=[8, 12], mlp_ratio=2)
# Outputs are normed, so of the order of 1: two orders of the same sums in float32, in bfloat16.
CLOSE = dict(atol=1e-5, rtol=1e-5)
LOW = dict(atol=0.1, rtol=0.02)
SIZES = [(1, 1), (7, 300), (300, 7), (77, 101), (512, 683), (64, 64)]


def build(arch=SMALL, img_size=64, seed=0, **kwargs) -> VHeat:
    """A small backbone with weights far enough from zero to show mistakes."""
    torch.manual_seed(seed)
    model = VHeat(arch, img_size=img_size, **kwargs)
    with torch.no_grad():
        for embed in model.freq_embed:
            embed.normal_()
        for name, parameter in model.named_parameters():
            if name.endswith('op.to_k.0.weight'):
                parameter.normal_(std=0.5)
    return model


# Sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('precision', ['float32', 'float64', 'bfloat16_autocast'])
def test_any_size_on_one_instance(precision, training):
    dtype = torch.float64 if precision == 'float64' else torch.float32
    model = build().to(dtype).train(training)
    reference = build().double().eval()

    def run(size) -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        images = torch.randn(2, 3, *size, dtype=dtype)
        with torch.autocast('cpu', torch.bfloat16, enabled='autocast' in precision):
            outs = model(images)
        if not training:
            close = dict(atol=0.5, rtol=0) if 'autocast' in precision else dict(atol=2e-4, rtol=0)
            for out, exact in zip(outs, reference(images.double()), strict=True):
                torch.testing.assert_close(out.double(), exact, **close)
        return outs

    with torch.set_grad_enabled(training):
        first = run(SIZES[0])
        for size in SIZES:
            outs = run(size)
            for i, out in enumerate(outs):
                stride = 2 ** (2 + i)
                ceil = (-(-size[0] // stride), -(-size[1] // stride))
                assert out.shape == (2, model.arch.dims[i], *ceil)
                assert out.isfinite().all()
            if training:
                sum(out.float().square().mean() for out in outs).backward()
                assert all(p.grad.isfinite().all() for p in model.parameters())
        again = run(SIZES[0])
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize('img_size', [64, (48, 80), [33, 7], 1])
def test_embeddings_are_made_for_the_image_size(img_size):
    model = build(img_size=img_size).eval()
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    outs = model(torch.zeros(1, 3, height, width))
    for embed, out in zip(model.freq_embed, outs, strict=True):
        assert embed.shape == (*out.shape[2:], out.shape[1])


def test_a_low_precision_model():
    images = torch.randn(1, 3, 70, 40)
    exact, outs = build().eval()(images), build().bfloat16().eval()(images.bfloat16())
    for out, expected in zip(outs, exact, strict=True):
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), expected, atol=0.5, rtol=0)


@pytest.mark.parametrize('kind', ['constant', 'random'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('size', [(2048, 2048), (1999, 45), (777, 1030)])
def test_large_images_of_large_values_stay_finite_under_autocast(size, dtype, kind):
    model = build().eval()
    # As large as the stem's first convolution takes without leaving float16 itself.
    weight, bias = model.patch_embed.conv1.weight, model.patch_embed.conv1.bias
    most = 60_000 / (weight.abs().sum((1, 2, 3)).max() + bias.abs().max()).item()
    images = torch.full((1, 3, *size), most)
    if kind == 'random':
        images = images * (2 * torch.rand(images.shape) - 1)
    with torch.no_grad(), torch.autocast('cpu', dtype):
        assert all(out.isfinite().all() for out in model(images))


def test_compiles_without_a_graph_break():
    torch.compiler.reset()
    model = build(PLAIN, out_indices=(0, 1)).eval()
    images = torch.randn(1, 3, 40, 64)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend='eager')
        for out, expected in zip(compiled(images), model(images), strict=True):
            torch.testing.assert_close(out, expected)


# Architectures and outputs -----------------------------------------------------------------------


@pytest.mark.parametrize(
    'out_indices', [(0, 1, 2, 3), (3,), (0, 2), (2, 0), 1, -1, (-1, 1), [1, 2]]
)
def test_out_indices_choose_among_the_maps(out_indices):
    full, images = build().eval(), torch.randn(1, 3, 50, 70)
    model = build(out_indices=out_indices).eval()
    state = full.state_dict()
    model.load_state_dict({key: state[key] for key in model.state_dict()}, strict=True)
    maps, outs = full(images), model(images)
    chosen = [out_indices] if isinstance(out_indices, int) else out_indices
    assert len(outs) == len(chosen)
    for i, out in zip(chosen, outs, strict=True):
        torch.testing.assert_close(out, maps[i], **CLOSE)
    assert tuple(out.shape[1] for out in outs) == model.out_channels
    ceil = [(-(-50 // stride), -(-70 // stride)) for stride in model.out_strides]
    assert [tuple(out.shape[2:]) for out in outs] == ceil
    norms = {name.partition('.')[0] for name in model.state_dict() if name.startswith('outnorm')}
    assert norms == {f'outnorm{i % 4}' for i in chosen}


@pytest.mark.parametrize(
    ('arch', 'depths', 'dims', 'post_norm', 'scale'),
    [
        ('tiny', (2, 2, 6, 2), 96, False, None),
        ('small', (2, 2, 18, 2), 96, True, 1e-5),
        ('base', (2, 2, 18, 2), 128, True, 1e-5),
    ],
)
def test_published_architectures(arch, depths, dims, post_norm, scale):
    dims = tuple(dims * 2**i for i in range(4))
    assert ARCHS[arch] == VHeatArch(depths, dims, post_norm, scale, mlp_ratio=4.0)
    with torch.device('meta'):
        model, short = VHeat(arch), VHeat(arch[0])
    assert model.arch == short.arch == ARCHS[arch]
    assert model.out_channels == dims and model.out_strides == (4, 8, 16, 32)
    for stage, depth, dim in zip(model.layers, depths, dims, strict=True):
        blocks = list(stage)[:depth]
        assert all(block.post_norm == post_norm for block in blocks)
        assert all((block.gamma1 is None) == (scale is None) for block in blocks)
        assert blocks[0].mlp.fc1.weight.shape == (4 * dim, dim, 1, 1)


@pytest.mark.parametrize(
    'arch', [SMALL, PLAIN, ConfigDict(PLAIN), VHeatArch(**PLAIN), dict(depths=(1,) * 5, dims=4)]
)
def test_an_arch_may_be_given_as_data_with_any_number_of_stages(arch):
    stages = len(arch.depths if isinstance(arch, VHeatArch) else arch['depths'])
    outs = build(arch, out_indices=tuple(range(stages)))(torch.randn(1, 3, 33, 65))
    assert len(outs) == stages


def test_drop_path_grows_linearly_over_all_blocks():
    model = build(drop_path_rate=0.4)
    blocks = [block for stage in model.layers for block in list(stage)[: stage.depth]]
    assert [block.drop_path.drop_prob for block in blocks] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


# Training ----------------------------------------------------------------------------------------


def gradients(model: VHeat, images: Tensor) -> tuple[list[Tensor], dict[str, Tensor | None]]:
    """Outputs, and the gradient of every parameter, under one random state."""
    torch.manual_seed(7)
    outs = model(images)
    weights = torch.Generator().manual_seed(3)
    sum((out * torch.randn(out.shape, generator=weights)).sum() for out in outs).backward()
    return [out.detach() for out in outs], {n: p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('training', [False, True])
def test_with_cp_changes_nothing(training, autocast):
    images = torch.randn(2, 3, 50, 70)
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        plain = gradients(build(drop_path_rate=0.5).train(training), images)
        saving = gradients(build(drop_path_rate=0.5, with_cp=True).train(training), images)
    for out, expected in zip(saving[0], plain[0], strict=True):
        torch.testing.assert_close(out, expected, **(LOW if autocast else CLOSE))
    for name, expected in plain[1].items():
        atol = (1e-2 if autocast else 1e-5) * max(1, expected.abs().max().item())
        torch.testing.assert_close(saving[1][name], expected, atol=atol, rtol=0, msg=name)


def test_with_cp_recomputes_the_blocks(monkeypatch):
    calls = []
    model = build(with_cp=True)
    forward = model.layers[0][0].forward
    monkeypatch.setattr(model.layers[0][0], 'forward', lambda *a: calls.append(0) or forward(*a))
    gradients(model, torch.randn(1, 3, 32, 32))
    assert len(calls) == 2


@pytest.mark.parametrize('size', [(64, 64), (50, 70)])
@pytest.mark.parametrize('arch', [SMALL, dict(SMALL, post_norm=False, layer_scale_init_value=None)])
def test_every_parameter_gets_a_gradient(arch, size):
    model, images = build(arch, drop_path_rate=0), torch.randn(2, 3, *size)
    for name, gradient in gradients(model, images)[1].items():
        assert gradient is not None and gradient.isfinite().all() and gradient.any(), name


@pytest.mark.parametrize('frozen', [-1, 0, 1, 2, 3, 4])
def test_frozen_stages_stay_frozen(frozen):
    model = build(drop_path_rate=0.2, frozen_stages=frozen)
    model.eval().train()

    def is_frozen(name: str) -> bool:
        part, _, rest = name.partition('.')
        if part == 'patch_embed':
            return frozen >= 0
        return part in ('layers', 'freq_embed') and int(rest.split('.')[0]) < frozen

    before = copy.deepcopy(model.state_dict())
    grads = gradients(model, torch.randn(8, 3, 64, 64))[1]
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != is_frozen(name), name
        assert (grads[name] is None) == is_frozen(name), name
        assert torch.equal(parameter, before[name]) == is_frozen(name), name
    for name, module in model.named_modules():
        if re.match(r'patch_embed|layers\.\d', name):
            assert module.training != is_frozen(name), name


def test_frozen_stages_have_no_stochastic_depth():
    model = build(drop_path_rate=0.9, frozen_stages=4).train()
    images = torch.randn(4, 3, 32, 32)
    for one, other in zip(model(images), model(images), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def test_a_few_steps_of_an_optimizer_fit_one_target():
    model = build(PLAIN, img_size=16, out_indices=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    images, target = torch.randn(2, 3, 16, 24), torch.randn(2, 12, 2, 3)
    losses = []
    for _ in range(30):
        losses.append((model(images)[0] - target).square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


# Weights -----------------------------------------------------------------------------------------


def test_a_seed_decides_the_weights():
    def state(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        model = VHeat(SMALL, img_size=64)
        model.init_weights()
        return model.state_dict()

    first, second, other = state(0), state(0), state(1)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first['freq_embed.0'], other['freq_embed.0'])
    assert all(value.isfinite().all() for value in first.values())
    for key, value in first.items():
        if key.startswith('freq_embed') or re.search(r'(linear|to_k\.0)\.weight', key):
            assert 0.01 < value.std() < 0.03 and value.abs().max() <= 2
        if re.search(r'(linear|to_k\.0)\.bias', key):
            assert not value.any()


def test_an_init_cfg_is_obeyed():
    init_cfg = dict(type='Constant', layer='LayerNorm', val=0.5, bias=0.25)
    model = VHeat(SMALL, img_size=32, init_cfg=init_cfg)
    model.init_weights()
    assert (model.outnorm0.weight == 0.5).all() and (model.outnorm0.bias == 0.25).all()


def test_running_leaves_no_trace_in_the_state_dict():
    model = build()
    before = copy.deepcopy(model.state_dict())
    for mode, size in [(True, (50, 70)), (False, (9, 200)), (False, (64, 64))]:
        model.train(mode)(torch.randn(1, 3, *size))
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert not list(model.buffers())


def pickled(model: VHeat) -> VHeat:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize('clone', [copy.deepcopy, pickled])
def test_a_copy_stands_on_its_own(clone):
    images = torch.randn(1, 3, 50, 70)
    model = build().eval()
    expected = model(images)
    twin = clone(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    del model
    for out, same in zip(twin(images), expected, strict=True):
        torch.testing.assert_close(out, same, **CLOSE)
    # The hook that resizes on load came along.
    twin.load_state_dict(build(img_size=96).state_dict(), strict=True)


# Loading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('loader', ['torch', 'mmengine'])
@pytest.mark.parametrize('nested', [False, True])
def test_embeddings_are_resized_while_loading(loader, nested, log):
    source, target = build(img_size=64, seed=1), build(img_size=(96, 40), seed=2)
    expected = {k: v.clone() for k, v in source.state_dict().items()}
    for i, embed in enumerate(target.freq_embed):
        resized = resize_freq_embed(source.freq_embed[i], embed.shape[:2])
        expected[f'freq_embed.{i}'] = resized.detach()
    given = source.state_dict()
    owner = nn.ModuleDict(dict(backbone=target)) if nested else target
    if nested:
        given = {f'backbone.{key}': value for key, value in given.items()}
    shapes = {key: value.shape for key, value in given.items()}

    log.clear()
    if loader == 'torch':
        owner.load_state_dict(given, strict=True)
    else:
        load_state_dict(owner, given, strict=True, logger='current')

    loaded = target.state_dict()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    assert {key: value.shape for key, value in given.items()} == shapes, 'it is left as it was'
    assert len(log) == 1 and '\n' not in log[0]
    keys = len(source.state_dict())
    assert f'{keys} keys matched, 4 of them resized (freq_embed.0 16x16 -> 24x10, ' in log[0]
    assert log[0].startswith('Load backbone.VHeat: ' if nested else 'Load VHeat: ')
    assert 'freq_embed.3' in log[0]

    log.clear()
    owner.load_state_dict(owner.state_dict(), strict=True)
    assert len(log) == 1 and f'{keys} keys matched, 0 of them resized, 0 missing' in log[0]


def test_loading_a_size_equals_running_at_it():
    """A checkpoint of 64 fitted to 96 on load gives at 96 what it gives when run at 96."""
    source, fitted = build(img_size=64).eval(), build(img_size=96, seed=5).eval()
    fitted.load_state_dict(source.state_dict(), strict=True)
    images = torch.randn(1, 3, 96, 96)
    # The embeddings are equal, but lie otherwise in memory, and so kernels may round otherwise.
    for one, other in zip(source(images), fitted(images), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def test_weights_of_another_arch_are_reported():
    wide = build(dict(SMALL, dims=12), img_size=96)
    with pytest.raises(UserError, match=r'freq_embed\.0 \(24, 24, 12\), not \(16, 16, 8\)'):
        build().load_state_dict(wide.state_dict())
    plain = build(dict(SMALL, layer_scale_init_value=None))
    with pytest.raises(RuntimeError, match=r'Missing key.*gamma1'):
        build().load_state_dict(plain.state_dict())


@pytest.mark.parametrize('nested', [False, True])
def test_weights_folded_for_inference_are_refused(nested):
    model = build()
    prefix = 'backbone.' if nested else ''
    owner = nn.ModuleDict(dict(backbone=model)) if nested else model
    state = owner.state_dict()
    state[f'{prefix}layers.0.0.op.k_exp'] = torch.ones(16, 16, 8)
    for load in (nn.Module.load_state_dict, load_state_dict):
        with pytest.raises(ValueError, match=r'layers\.0\.0\.op\.k_exp.*training form') as error:
            load(owner, state, strict=False)
        assert '\n' not in str(error.value)


def test_a_pretrained_init_cfg_loads_the_backbone_of_a_file(tmp_path, log):
    source = build(img_size=64, seed=1)
    state = {f'backbone.{key}': value for key, value in source.state_dict().items()}
    torch.save(dict(state_dict=state | {'head.fc.weight': torch.zeros(2, 64)}), tmp_path / 'c.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'c.pth'), prefix='backbone.')
    model = build(img_size=96, seed=2, init_cfg=init_cfg)
    name = 'layers.2.1.op.linear.weight'
    before = model.get_parameter(name).clone()
    model.init_weights()
    assert not torch.equal(model.get_parameter(name), before)
    expected = build(img_size=96, seed=3)
    expected.load_state_dict(source.state_dict())
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.state_dict().items())
    assert not [line for line in log if 'do not match' in line]


def test_a_file_of_mmengine_loads(tmp_path):
    source, model = build(seed=1), build(seed=2)
    torch.save(dict(state_dict=source.state_dict(), meta={}), tmp_path / 'epoch_1.pth')
    load_checkpoint(model, str(tmp_path / 'epoch_1.pth'), strict=True)
    assert torch.equal(model.freq_embed[3], source.freq_embed[3])


# Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='huge'), "unknown arch 'huge': use tiny, small, base"),
        (dict(arch=None), 'a dict of depths and dims, got None'),
        (dict(arch=dict(depths=(1, 1))), 'arch has no dims: its keys are depths, dims'),
        (dict(arch=dict(PLAIN, width=3)), 'arch has unknown width: its keys are'),
        (dict(arch=dict(PLAIN, dims=(8,))), '2 depths but 1 dims'),
        (dict(arch=dict(PLAIN, dims=(8, 0))), r'positive integers, got \(8, 0\)'),
        (dict(arch=dict(PLAIN, dims=(8, 9.5))), r'positive integers, got \(8, 9.5\)'),
        (dict(arch=dict(PLAIN, dims='wide')), "sequence of integers, got 'wide'"),
        (dict(arch=dict(PLAIN, dims=7)), 'so it is even, got 7'),
        (dict(arch=dict(PLAIN, depths=())), r'positive integers, got \(\)'),
        (dict(arch=dict(PLAIN, depths=3)), 'sequence of integers, got 3'),
        (dict(arch=dict(PLAIN, mlp_ratio=0)), 'mlp_ratio is a positive number, got 0'),
        (dict(arch=dict(PLAIN, mlp_ratio='4')), "positive number, got '4'"),
        (dict(arch=dict(PLAIN, mlp_ratio=float('nan'))), 'positive number, got nan'),
        (dict(arch=dict(PLAIN, layer_scale_init_value='small')), "a number or None, got 'small'"),
        (dict(arch=dict(PLAIN, layer_scale_init_value=float('inf'))), 'or None, got inf'),
        (dict(in_channels='three'), "in_channels is a positive integer, got 'three'"),
        (dict(in_channels=0), 'in_channels is a positive integer, got 0'),
        (dict(out_indices=None), 'a stage or a sequence of stages, got None'),
        (dict(out_indices=(0, 4)), 'has 4, but this arch has stages 0 to 3'),
        (dict(out_indices=-5), 'out_indices has -5'),
        (dict(out_indices=('0',)), "out_indices has '0'"),
        (dict(out_indices=()), 'out_indices is empty'),
        (dict(img_size=0), 'img_size is a positive integer .*got 0'),
        (dict(img_size=(64, 64, 3)), r'got \(64, 64, 3\)'),
        (dict(img_size=64.0), r'img_size .*got 64\.0'),
        (dict(drop_path_rate=1.0), r'drop_path_rate is a number in \[0, 1\), got 1\.0'),
        (dict(img_size=True), 'img_size .*got True'),
        (dict(drop_path_rate='a'), "got 'a'"),
        (dict(frozen_stages='all'), 'frozen_stages is -1 .*got all'),
        (dict(frozen_stages=5), r'to 4 \(all\), got 5'),
        (dict(frozen_stages=-2), 'frozen_stages is -1 .*got -2'),
        (dict(decay_cache_mib=-1), 'decay_cache_mib is a number of MiB .*got -1'),
        (dict(decay_cache_mib=1.5), r'decay_cache_mib .*from 0 .*got 1\.5'),
        (dict(decay_cache_mib=True), 'decay_cache_mib .*got True'),
        (dict(decay_cache_mib='512'), "decay_cache_mib .*got '512'"),
    ],
)
def test_bad_arguments_give_one_clear_line(kwargs, message):
    with pytest.raises(UserError, match=message) as raised:
        VHeat(**dict(dict(arch=SMALL), **kwargs))
    assert '\n' not in str(raised.value)


def test_images_without_a_batch_are_refused():
    with pytest.raises(ValueError, match=r'shape \(B, C, H, W\), got \(3, 64, 64\)'):
        build()(torch.rand(3, 64, 64))


@pytest.mark.parametrize('name', ['depth', 'embed_dims', 'pretrained', 'use_checkpoint'])
def test_an_unknown_argument_is_refused(name):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        VHeat(SMALL, **{name: None})


@pytest.mark.parametrize('training', [False, True])
def test_channels_last_images_stay_so_without_a_copy(training):
    model = VHeat(dict(depths=[1, 1], dims=8), img_size=32, out_indices=(0, 1), drop_path_rate=0.0)
    model.train(training)
    x = torch.randn(2, 3, 32, 48)
    expected = model(x)
    outs = model(x.to(memory_format=torch.channels_last))
    for out, wanted in zip(outs, expected, strict=True):
        assert wanted.is_contiguous()
        assert out.is_contiguous(memory_format=torch.channels_last) and not out.is_contiguous()
        torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-5)
