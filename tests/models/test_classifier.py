"""The classifier: mmpretrain's names and numbers, and what is built from a checkpoint."""

import json
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from checkpoint_kinds import CLASSES, backbone, every_kind, mmengine, mmpretrain, published
from golden import MODELS, golden_arch, golden_npz, golden_tensor
from torch import nn

from mmvheat.checkpoint import fold_state_dict, write_checkpoint
from mmvheat.errors import UserError
from mmvheat.models import ARCHS, VHeatArch, VHeatClassifier
from mmvheat.models.counting import count_model
from mmvheat.models.load_hook import adapt_input_channels

ROOT = Path(__file__).parents[2]
ARCH = dict(depths=(1, 2), dims=(6, 10), post_norm=True, layer_scale_init_value=0.1, mlp_ratio=2.0)
CLASSIFIERS = [kind for kind, facts in every_kind().items() if facts[3] == 'classifier']
TRAINING_FORM = [kind for kind in CLASSIFIERS if 'folded' not in kind]


def saved(folder: Path, content: dict, name: str = 'vheat.pth') -> Path:
    torch.save(content, folder / name)
    return folder / name


def assert_near(first, second, error=1e-5):
    torch.testing.assert_close(first, second, atol=error, rtol=0)


@pytest.mark.parametrize('kind', TRAINING_FORM)
@pytest.mark.parametrize('name', MODELS)
@torch.no_grad()
def test_it_gives_the_published_logits(name, kind, tmp_path):
    content, key, *_ = every_kind(name)[kind]
    path = saved(tmp_path, content)
    model = VHeatClassifier.from_checkpoint(path, arch=golden_arch(name), key=key)
    golden = torch.from_numpy(golden_npz(name)['cls/logits'])
    assert not model.training
    assert_near(model(golden_tensor(1, (2, 3, 64, 64))), golden, 1e-5 * max(1, golden.abs().max()))
    assert model.classes == (CLASSES if content.get('meta') else None)


@pytest.mark.parametrize('name', ['tiny', 'small', 'base'])
@torch.no_grad()
def test_it_is_the_classifier_of_the_configs(name):
    """In names, in order and in what it computes; the config's arch is shrunken."""
    pytest.importorskip('mmpretrain')
    from mmengine.config import Config
    from mmengine.registry import MODELS as REGISTRY
    from mmengine.registry import DefaultScope

    cfg = Config.fromfile(ROOT / f'configs/classification/vheat-{name}_16xb128_in1k.py')
    assert cfg.model.head.in_channels == ARCHS[name].dims[-1]
    arch = VHeatArch((1, 1, 2, 1), 8, ARCHS[name].post_norm, ARCHS[name].layer_scale_init_value)
    cfg.model.backbone.arch = dict(vars(arch))
    cfg.model.head.in_channels = arch.dims[-1]
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        theirs = REGISTRY.build(cfg.model).eval()
    ours = VHeatClassifier(arch).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    images = torch.randn(2, 3, 50, 77)
    assert_near(ours(images), theirs.head(theirs.extract_feat(images)))
    assert_near(ours.forward_features(images), theirs.backbone(images)[0], error=0)


def test_names_are_those_of_converted_files():
    model = VHeatClassifier(golden_arch('tiny_like'), num_classes=10, img_size=64)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in mmpretrain().items()}


@pytest.mark.parametrize('num_classes', [0, 7])
def test_every_weight_is_trained(num_classes):
    model = VHeatClassifier(ARCH, num_classes, in_channels=2, img_size=(40, 24), drop_path_rate=0.1)
    out = model(torch.randn(2, 2, 33, 18))
    assert out.shape == (2, num_classes or ARCH['dims'][-1])
    assert any(name.startswith('head.') for name in model.state_dict()) == bool(num_classes)
    (out * torch.randn_like(out)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    features = model.eval().forward_features(torch.randn(2, 2, 33, 18))
    assert features.shape == (2, ARCH['dims'][-1], 5, 3)


@pytest.mark.parametrize(
    'arguments',
    [
        {},
        dict(arch='s', num_classes=0, img_size=96),
        dict(arch=ARCH, num_classes=2, classes=('a', 'b'), in_channels=1, img_size=(9, 31)),
        dict(arch=VHeatArch(depths=[1], dims=4), drop_path_rate=0.25),
        dict(arch=MappingProxyType(ARCH)),
    ],
    ids=['nothing', 'letter', 'dict', 'VHeatArch', 'mapping'],
)
def test_its_arguments_build_it_again(arguments):
    with torch.device('meta'):
        model = VHeatClassifier(**arguments)
        stored = json.loads(json.dumps(model.arguments()))
        again = VHeatClassifier(**stored)
    assert repr(again) == repr(model)
    assert stored == model.arguments() == again.arguments()
    assert again.backbone.arch == model.backbone.arch


def test_named_archs_keep_their_names():
    with torch.device('meta'):
        assert [VHeatClassifier(value).arguments()['arch'] for value in ARCHS.values()] == [*ARCHS]


@torch.no_grad()
def test_another_size_fits_the_embeddings(tmp_path):
    """As the model of the stored size resizes them in each pass."""
    path, arch = saved(tmp_path, {'model': published()}), golden_arch('tiny_like')
    stored = VHeatClassifier.from_checkpoint(path, arch=arch)
    fitted = VHeatClassifier.from_checkpoint(path, arch=arch, img_size=(96, 50))
    assert (stored.backbone.img_size, fitted.backbone.img_size) == ((64, 64), (96, 50))
    images = torch.randn(1, 3, 96, 50)
    assert_near(fitted(images), stored(images))


@pytest.mark.parametrize('kind', ['published', 'detector', 'mmcv segmentor', 'backbone'])
@torch.no_grad()
def test_the_backbone_of_any_model(kind, tmp_path):
    """A classifier's is left by 0, that of others comes without a word."""
    content, key, _, model_kind = every_kind()[kind]
    of_classifier = dict(num_classes=0) if model_kind == 'classifier' else {}
    model = VHeatClassifier.from_checkpoint(
        saved(tmp_path, content), arch=golden_arch('tiny_like'), **of_classifier
    )
    assert model.num_classes == 0 and model.classes is None
    for name, value in model.backbone.state_dict().items():
        source = published() if model_kind == 'classifier' else backbone()
        if name.startswith('outnorm') and model_kind == 'classifier':
            name = name.replace('outnorm3', 'classifier.0')
        assert torch.equal(value, source[name]), name
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, model.backbone.arch.dims[-1])


@pytest.mark.parametrize('source', ['published', 'detector'])
def test_a_classifier_starts_anew_only_if_asked_to(source, tmp_path):
    path = saved(tmp_path, every_kind()[source][0])
    arguments = dict(arch=golden_arch('tiny_like'), num_classes=3)
    with pytest.raises(UserError, match='ignore_mismatched_sizes=True') as error:
        VHeatClassifier.from_checkpoint(path, **arguments)
    has = '10 classes' if source == 'published' else 'no classes'
    assert has in str(error.value) and str(path) in str(error.value)
    model = VHeatClassifier.from_checkpoint(path, **arguments, ignore_mismatched_sizes=True)
    assert model.head.fc.weight.shape[0] == 3 and not model.head.fc.bias.any()
    assert torch.equal(model.backbone.freq_embed[0], published()['freq_embed.0'])


def test_the_arch_is_read_off_the_file(tmp_path):
    """By a shrunken table: names and shapes must be those of one of its archs."""
    arch = VHeatArch(depths=(1, 1, 1, 1), dims=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHS, 'base', arch)
        model = VHeatClassifier('base', 2, in_channels=5, img_size=(64, 33))
        meta = {'dataset_meta': {'classes': ['a' * 60, 'b']}}
        write_checkpoint(tmp_path / 'x.safetensors', model.state_dict(), meta)
        again = VHeatClassifier.from_checkpoint(tmp_path / 'x.safetensors')
        assert again.arguments()['arch'] == 'base'
    assert again.in_channels == 5 and again.backbone.img_size == (64, 36)
    assert again.classes == ('a' * 60, 'b'), 'whole names'


@pytest.mark.parametrize(
    ('content', 'arguments', 'message'),
    [
        ({'model': published()}, {}, r'give arch=dict\(depths=\(1, 1, 2, 1\), .*post_norm'),
        ({'model': published('base_like')}, {}, r'layer_scale_init_value=1e-5'),
        ({'model': published()}, dict(arch='tiny'), r'of a vHeat of depths 1, 1, 2, 1.* this is'),
        ({'model': published()}, dict(arch=dict(ARCH, depths=(1, 1))), 'do not fit the model'),
        ({'model': fold_state_dict(published(), 64)}, {}, 'already folded for inference'),
        ({'model': {'conv.weight': torch.ones(1)}}, {}, 'another model than vHeat'),
        ({'epoch': 1}, {}, 'no state dict'),
        ({'model': published()}, dict(key='model_ema'), 'model_ema'),
        (
            {'model': {k: v for k, v in published().items() if 'layers.1.0.norm' not in k}},
            dict(arch=golden_arch('tiny_like')),
            r'4 missing \(backbone.layers.1.0.norm',
        ),
    ],
)
def test_a_file_that_cannot_be_used_gives_one_line(content, arguments, message, tmp_path):
    path = saved(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        VHeatClassifier.from_checkpoint(path, **arguments)
    assert str(error.value).startswith(str(path)) and '\n' not in str(error.value)


def test_embeddings_of_no_size(tmp_path):
    state = published()
    state['freq_embed.2'] = torch.ones(9, 4, 32)
    path, arch = saved(tmp_path, state), golden_arch('tiny_like')
    with pytest.raises(UserError, match='give img_size'):
        VHeatClassifier.from_checkpoint(path, arch=arch)
    assert VHeatClassifier.from_checkpoint(path, arch=arch, img_size=64).num_classes == 10


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(num_classes=-1), 'num_classes'),
        (dict(num_classes=True), 'num_classes'),
        (dict(num_classes='10'), 'num_classes'),
        (dict(num_classes=2, classes=['a']), 'num_classes is 2, but classes has 1 names'),
        (dict(num_classes=2, classes='ab'), 'sequence of names'),
        (dict(num_classes=2, classes={'a', 'b'}), 'sequence of names'),
        (dict(num_classes=2, classes=[0, 1]), 'sequence of names'),
        (dict(arch='huge'), 'unknown arch'),
        (dict(img_size=0), 'img_size'),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        VHeatClassifier(**arguments)


@pytest.mark.parametrize('channels', [3, 4])
def test_it_can_be_counted(channels):
    """A linear layer and a mean more than its backbone, for images of any channels."""
    with torch.device('meta'):
        model = VHeatClassifier(ARCH, num_classes=7, in_channels=channels, img_size=(64, 40))
    with torch.device('meta'):
        bare = VHeatClassifier(ARCH, num_classes=0, in_channels=channels, img_size=(64, 40))
    whole, part = count_model(model, (64, 40)), count_model(bare.backbone, (64, 40))
    dim = ARCH['dims'][-1]
    assert whole.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert whole.flops - part.flops == dim * 7 + dim * 8 * 5


def test_mmengine_files_keep_the_names_of_classes(tmp_path):
    path = saved(tmp_path, mmengine(mmpretrain()))
    arguments = dict(arch=golden_arch('tiny_like'), ignore_mismatched_sizes=True)
    assert VHeatClassifier.from_checkpoint(path, **arguments).classes == CLASSES
    assert VHeatClassifier.from_checkpoint(path, **arguments, num_classes=4).classes is None


@pytest.mark.parametrize('channels', [1, 4])
def test_files_for_rgb_images_fit_other_channels_and_no_others_do(channels, tmp_path):
    path, arch = saved(tmp_path, mmengine(mmpretrain())), golden_arch('tiny_like')
    model = VHeatClassifier.from_checkpoint(path, arch=arch, in_channels=channels)
    weight = mmpretrain()['backbone.patch_embed.conv1.weight']
    adapted = adapt_input_channels(weight, channels)
    torch.testing.assert_close(model.backbone.patch_embed.conv1.weight, adapted)
    torch.save(model.state_dict(), tmp_path / 'other.pth')
    with pytest.raises(UserError, match=rf'conv1.weight \(\d+, {channels}, 3, 3\), not'):
        VHeatClassifier.from_checkpoint(tmp_path / 'other.pth', arch=arch, in_channels=3)
