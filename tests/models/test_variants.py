"""The variants of the backbone: names, any size, loading, folding, counting, bad options."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.runner import load_checkpoint
from tiny_variants import VARIANTS

from mmvheat.checkpoint import (
    change_form,
    convert_state_dict,
    describe_checkpoint,
    fold_state_dict,
    learn_diffusivity,
)
from mmvheat.cli.inspection import inspect
from mmvheat.errors import UserError
from mmvheat.models import ARCHS, VHeat, VHeatArch, VHeatClassifier
from mmvheat.models.arch import is_arch, resolve_arch
from mmvheat.models.counting import count_model
from mmvheat.ops import FREQ_EMBED_MODES

PLAIN = dict(depths=(1, 2), dims=8)
SIZED = ['learned', 'dct_filter', 'global_filter', 'no_dwconv', 'isotropic']
FOLDABLE = [name for name in VARIANTS if name not in ('global_filter', 'identity')]
# What each has in a block beside the linear layers and norms, and in the backbone.
OWN = {
    'learned': ({'dwconv', 'mixer.k'}, False),
    'shared': ({'dwconv', 'mixer.k'}, False),
    'fixed': ({'dwconv', 'mixer.k'}, False),
    'dct_filter': ({'dwconv', 'mixer.dct_filter'}, False),
    'global_filter': ({'dwconv', 'mixer.global_filter'}, False),
    'identity': ({'dwconv'}, False),
    'no_dwconv': ({'to_k.0'}, True),
    'isotropic': ({'dwconv', 'to_k.0'}, True),
}


def build(variant: str | None = None, img_size=(32, 24), **arguments) -> VHeat:
    """A small backbone in eval mode whose learned spectra matter."""
    arch = PLAIN | VARIANTS.get(variant, {})
    model = VHeat(arch, img_size=img_size, out_indices=-1, **arguments).eval()
    for name, parameter in model.named_parameters():
        if 'mixer' in name or 'to_k' in name or 'freq_embed' in name:
            torch.nn.init.normal_(parameter)
    return model


def run(model: VHeat, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(images)[0]


def of_backbone(state: dict) -> dict:
    return {name.removeprefix('backbone.'): tensor for name, tensor in state.items()}


@pytest.mark.parametrize('variant', VARIANTS)
def test_the_state_dict_has_only_what_the_variant_needs(variant):
    names = build(variant).state_dict()
    start = 'layers.0.0.op.'
    block = {name[len(start) :] for name in names if name.startswith(start)}
    block = {name.removesuffix('.weight').removesuffix('.bias') for name in block}
    own, embeddings = OWN[variant]
    assert block == {'linear', 'out_norm', 'out_linear', *own}
    assert any(name.startswith('freq_embed') for name in names) == embeddings


@pytest.mark.parametrize('variant', VARIANTS)
def test_images_of_any_size_are_taken_and_all_that_is_learned_gets_gradients(variant):
    model = build(variant, with_cp=True).train()
    stride = model.out_strides[0]
    assert stride == (7 if variant == 'isotropic' else 8)
    for height, width in [(1, 1), (32, 24), (45, 70)]:
        (out,) = model(torch.randn(2, 3, height, width))
        assert out.shape[2:] == (-(-height // stride), -(-width // stride))
    out.square().sum().backward()
    unused = ('0.bias', 'to_k')  # relu may stop all of a bias
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or any(part in name for part in unused), name
    buffers = dict(model.named_buffers())
    assert all(name.endswith('mixer.k') for name in buffers) == bool(
        variant == 'fixed' or not buffers
    )


@pytest.mark.parametrize('variant', VARIANTS)
def test_autocast_computes_in_bfloat16(variant):
    model, images = build(variant), torch.randn(1, 3, 40, 24)
    exact = run(model, images)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        rounded = run(model, images)
    torch.testing.assert_close(rounded.float(), exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize('mode', FREQ_EMBED_MODES)
@pytest.mark.parametrize('variant', VARIANTS)
def test_a_conversion_fits_what_has_a_size_and_bicubic_is_what_the_model_does(variant, mode):
    model, images = build(variant), torch.randn(1, 3, 48, 64)
    state, report = convert_state_dict(model.state_dict(), (32, 24), (48, 64), mode)
    resized = {name.split('.')[-1] for name in report.resized}
    assert bool(report.resized) == (variant in SIZED), resized
    larger = build(variant, img_size=(48, 64))
    larger.load_state_dict(of_backbone(state))
    if mode == 'bicubic':
        torch.testing.assert_close(run(larger, images), run(model, images), atol=1e-5, rtol=1e-5)
        # What is loaded without a conversion is fitted while it loads.
        loaded = build(variant, img_size=(48, 64))
        loaded.load_state_dict(model.state_dict())
        for name, tensor in loaded.state_dict().items():
            assert torch.equal(tensor, larger.state_dict()[name])


@pytest.mark.parametrize('variant', VARIANTS)
def test_what_a_checkpoint_is_can_be_told(variant, tmp_path, capsys):
    model, arch = build(variant), resolve_arch(PLAIN | VARIANTS[variant])
    backbone = describe_checkpoint({'state_dict': model.state_dict()}).backbone
    assert backbone.missing == backbone.unknown == () and not backbone.misshaped
    assert is_arch(backbone, arch)
    others = [resolve_arch(PLAIN | options) for options in VARIANTS.values()]
    assert [is_arch(backbone, other) for other in [resolve_arch(PLAIN), *others]].count(True) == 1
    assert backbone.is_sized == (variant in SIZED) == (backbone.image_size is not None)
    torch.save(model.state_dict(), tmp_path / 'x.pth')
    inspect(str(tmp_path / 'x.pth'), None, as_json=False)
    text = capsys.readouterr().out
    for name, value in VARIANTS[variant].items():
        if name not in ('k', 'depths'):
            assert f'{name}={value}' in text
    assert ('nothing in it is made for one size' in text) == (variant not in SIZED)


@pytest.mark.parametrize('variant', FOLDABLE)
def test_folding_computes_the_same_in_the_model_and_in_the_file(variant):
    model, images = build(variant), torch.randn(1, 3, 40, 52)
    expected = run(model, images)
    folded = build(variant, img_size=(40, 52), inference_form=True)
    folded.load_state_dict(of_backbone(fold_state_dict(model.state_dict(), (40, 52))))
    torch.testing.assert_close(run(folded, images), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(run(model.fold((40, 52)), images), expected, atol=1e-5, rtol=1e-5)
    names = set(model.state_dict())
    assert not any(part in name for name in names for part in ('mixer', 'to_k', 'freq_embed'))
    assert describe_checkpoint(model.state_dict()).backbone.folded


@pytest.mark.parametrize('variant', ['global_filter', 'identity'])
def test_what_has_no_decays_is_not_folded(variant):
    model = build(variant)
    with pytest.raises(UserError, match=f"^operator='{variant}' has no decays to fold"):
        model.fold()
    with pytest.raises(UserError, match='has no decays to fold'):
        build(variant, inference_form=True)
    with pytest.raises(UserError, match=f'^its operator is {variant}, which has no decays'):
        fold_state_dict(model.state_dict(), 32)


@pytest.mark.parametrize('size', [(32, 24), (40, 29)])
@pytest.mark.parametrize('form', ['backbone', 'classifier'])
def test_learned_initialised_from_predicted_gives_the_same_output(form, size):
    """At the size it is made for and, for interpolation is linear, at any other."""
    images = torch.randn(2, 3, *size)
    if form == 'backbone':
        source, model = build(), build('learned')
        state = of_backbone(learn_diffusivity(source.state_dict()))
    else:
        source = VHeatClassifier(PLAIN, num_classes=3, img_size=(32, 24)).eval()
        source.backbone.load_state_dict(build().state_dict())
        arch = PLAIN | VARIANTS['learned']
        model = VHeatClassifier(arch, num_classes=3, img_size=(32, 24)).eval()
        state = learn_diffusivity(source.state_dict())
    model.load_state_dict(state)
    with torch.no_grad():
        expected, out = source(images), model(images)
    if form == 'backbone':
        (expected,), (out,) = expected, out
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    model.train()(images)[0].sum().backward()
    assert any(p.grad.any() for name, p in model.named_parameters() if name.endswith('mixer.k'))


@pytest.mark.parametrize('variant', ['learned', 'identity', 'global_filter'])
def test_only_what_predicts_can_be_learned_from(variant):
    with pytest.raises(UserError, match='it predicts no diffusivity'):
        learn_diffusivity(build(variant).state_dict())
    broken = build().state_dict()
    del broken['layers.0.0.op.to_k.0.bias']
    with pytest.raises(UserError, match='layers.0.0.op.to_k.0.weight and its bias are .* missing'):
        learn_diffusivity(broken)


def test_a_checkpoint_fixed_at_another_number_is_refused(tmp_path):
    state = build('fixed').state_dict()
    model = VHeat(PLAIN | dict(diffusivity='fixed', k=2), img_size=32, out_indices=-1)
    with pytest.raises(UserError, match='fixed at k=0.5 in the checkpoint and at k=2 in the backb'):
        model.load_state_dict(state)
    torch.save({'state_dict': state}, tmp_path / 'x.pth')
    load_checkpoint(build('fixed').half(), str(tmp_path / 'x.pth'), strict=True)


@pytest.mark.parametrize('variant', ['shared', 'learned', 'global_filter', 'identity'])
def test_a_checkpoint_of_another_variant_is_reported(variant, log):
    build(variant).load_state_dict(build().state_dict(), strict=False)
    expected = len(build(variant).state_dict().keys() - build().state_dict().keys())
    assert f'{expected} missing' in log[-1] and 'unexpected (freq_embed.0' in log[-1]
    with pytest.raises(RuntimeError, match='freq_embed'):
        build(variant).load_state_dict(build().state_dict())


@pytest.mark.parametrize('variant', ['learned', 'dct_filter', 'global_filter'])
def test_a_damaged_spectrum_is_one_line(variant):
    state = build(variant).state_dict()
    (name, *_) = (name for name in state if 'mixer' in name)
    for damage in (lambda t: t[0], lambda t: t.long(), lambda t: t[:0]):
        if variant == 'learned' and damage(state[name]).dim() == 1:
            continue
        broken = state | {name: damage(state[name])}
        with pytest.raises(UserError, match=f'{name} is .* expected floating-point'):
            change_form(broken, 'backbone', 64)
    with pytest.raises(UserError, match=r'contradicts layers.0.0.op.mixer.\w+, which is 8 x 6'):
        convert_state_dict(state, 64, 96)
    with pytest.raises(UserError, match="mode 'pad' cannot shrink an embedding of 8 x 6 to 4 x 4"):
        change_form(state, 'backbone', 16, mode='pad')
    incomplete = {key: tensor for key, tensor in state.items() if key != name}
    if variant != 'global_filter':
        with pytest.raises(UserError, match=r'layers.0.0.op.mixer.\w+ is missing'):
            fold_state_dict(incomplete, 32)
    others = state | {name: torch.zeros(8, 6, 3)}
    if variant != 'global_filter':
        with pytest.raises(UserError, match='in a block of 8 channels'):
            fold_state_dict(others, 32)


def test_counts():
    """What the variants leave out, and what they have in its place, by hand."""
    size, blocks = (32, 24), [(8, 6, 8), (4, 3, 16), (4, 3, 16)]

    def count(variant=None):
        with torch.device('meta'):
            arch = PLAIN | VARIANTS.get(variant, {})
            return count_model(VHeat(arch, img_size=size, out_indices=-1), size)

    plain = count()
    predicting = sum(h * w * c * c for h, w, c in blocks)
    embeddings = 8 * 6 * 8 + 4 * 3 * 16
    linears = sum(c * c + c for *_, c in blocks)
    grids = sum(h * w * c for h, w, c in blocks)
    for variant, own in {
        'learned': grids,
        'dct_filter': grids,
        'shared': sum(c for *_, c in blocks),
        'fixed': 0,
        'global_filter': sum(h * (w // 2 + 1) * c * 2 for h, w, c in blocks),
        'identity': 0,
    }.items():
        counted = count(variant)
        assert counted.parameters == plain.parameters - embeddings - linears + own
        if variant in ('learned', 'dct_filter', 'shared', 'fixed'):
            assert counted.flops == plain.flops - predicting
    transforms = sum(2 * (h * w * c * (h + w)) for h, w, c in blocks)
    identity = count('identity').flops
    assert identity == plain.flops - predicting - transforms - grids / 2
    fourier = sum(
        2 * 1.25 * h * w * c * torch.tensor(h * w).log2().item() + 3 * h * (w // 2 + 1) * c
        for h, w, c in blocks
    )
    assert count('global_filter').flops == pytest.approx(identity + fourier, rel=1e-6)
    convolutions = sum(9 * h * w * c for h, w, c in blocks)
    assert count('no_dwconv').flops == plain.flops - convolutions


def test_isotropic_small_is_of_the_size_of_deit_small():
    with torch.device('meta'):
        model = VHeat('vheat_isotropic_small', out_indices=0)
        assert model.arch == VHeat('isotropic_small', out_indices=0).arch
        maps = model(torch.zeros(1, 3, 224, 200, device='meta'))
        model = VHeatClassifier('isotropic_small')
    assert maps[0].shape == (1, 384, 14, 13)
    # DeiT-S: 22.05 M parameters, 4.6 G multiply-adds (arXiv 2012.12877, Table 5; timm counts them).
    assert model.head.fc.in_features == 384
    assert count_model(model, (224, 224)).parameters == pytest.approx(22.05e6, rel=0.02)


def test_a_name_with_changes():
    assert resolve_arch(dict(name='tiny', dwconv=False)) == VHeatArch(
        (2, 2, 6, 2), 96, dwconv=False
    )
    assert resolve_arch(dict(name='small')) == ARCHS['small']
    arch = dict(name='base', diffusivity='shared')
    with torch.device('meta'):
        stored = VHeatClassifier(arch).arguments()
        assert VHeatClassifier(**stored).backbone.arch == resolve_arch(arch)


def test_from_checkpoint_says_what_to_give(tmp_path):
    arch = PLAIN | dict(diffusivity='fixed', k=0.5, dwconv=False)
    model = VHeatClassifier(arch, num_classes=3, img_size=32).eval()
    torch.save(model.state_dict(), tmp_path / 'x.pth')
    with pytest.raises(UserError, match="diffusivity='fixed', dwconv=False, k=..."):
        VHeatClassifier.from_checkpoint(tmp_path / 'x.pth')
    with pytest.raises(UserError, match='give img_size'):
        VHeatClassifier.from_checkpoint(tmp_path / 'x.pth', arch=arch)
    again = VHeatClassifier.from_checkpoint(tmp_path / 'x.pth', arch=arch, img_size=32)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(operator='fft'), "^arch: operator is one of heat, .*, got 'fft'"),
        (dict(diffusivity='given'), "^arch: diffusivity is one of predicted, .*, got 'given'"),
        (dict(operator='dct_filter', diffusivity='learned'), "only operator='heat' has a diffus"),
        (dict(diffusivity='fixed'), 'needs k, a number from 0, got k=None'),
        (dict(k=1), "k is the number of diffusivity='fixed', got k=1 with diffusivity='predict"),
        (dict(dwconv=1), 'dwconv of an arch is True or False, got 1'),
        (dict(patch_size=0), 'patch_size of an arch is a positive integer, got 0'),
        (dict(patch_size='16'), "a positive integer, got '16'"),
        (dict(name='huge'), "unknown arch 'huge'"),
        (dict(name='tiny', width=3), 'arch has unknown width'),
    ],
)
def test_bad_options_are_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        resolve_arch(PLAIN | options)
    assert '\n' not in str(caught.value)


def test_the_examples_of_the_page_run(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / 'docs' / 'variants.md').read_text()
    build_them, convert = re.findall(r'^```python\n(.*?)^```', page, re.MULTILINE | re.DOTALL)
    with torch.device('meta'):
        exec(build_them, {})
    monkeypatch.chdir(tmp_path)
    torch.save({'model': build().state_dict()}, 'vheat-tiny_in1k.pth')
    exec(convert, {})
    state = torch.load('vheat-tiny_learned.pth', weights_only=True)['state_dict']
    build('learned').load_state_dict(of_backbone(state))


def test_the_table_of_the_page_is_counted():
    page = (Path(__file__).parents[2] / 'docs' / 'variants.md').read_text()
    rows = re.findall(r'^\| `([\w=]+)`.* \| ([\d.]+) M \| ([\d.]+) G \|$', page, re.MULTILINE)
    options = VARIANTS | {'tiny': {}, 'dwconv=False': dict(dwconv=False)}
    assert len(rows) == 8
    for name, millions, giga in rows:
        with torch.device('meta'):
            model = VHeatClassifier(dict(name='tiny', **options[name]))
        counted = count_model(model, (224, 224))
        assert (f'{counted.parameters / 1e6:.2f}', f'{counted.flops / 1e9:.2f}') == (millions, giga)
