"""VHeatModel: folders and the Hub's cache and back; nothing here needs a network."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from checkpoint_kinds import CLASSES, mmengine, mmpretrain, published, wrapped
from golden import golden_arch, golden_npz, golden_tensor
from safetensors import safe_open
from web import hostile_pickle

pytest.importorskip('huggingface_hub')

from huggingface_hub import ModelCard, hub_mixin

from mmvheat.checkpoint import write_checkpoint
from mmvheat.errors import UserError
from mmvheat.hub import VHeatModel
from mmvheat.models import ARCHS, PUBLISHED_CLASSIFIERS, VHeatArch, VHeatClassifier

FILES = {'README.md', 'config.json', 'model.safetensors'}
ARCH = dict(depths=[1, 2], dims=[6, 10], post_norm=True, layer_scale_init_value=0.1, mlp_ratio=2.0)
ARGUMENTS = {
    'classifier': dict(arch=ARCH, num_classes=3, img_size=(40, 24), classes=['ä', 'b b', 'c']),
    'letter, defaults': dict(arch='t', drop_path_rate=0.2, num_classes=2, img_size=32),
    'backbone': dict(arch=VHeatArch(depths=(1, 1), dims=4), num_classes=0, in_channels=4),
}


def golden_model() -> VHeatModel:
    """The golden classifier: 10 classes, 64 x 64."""
    model = VHeatModel(golden_arch('tiny_like'), 10, img_size=64, classes=CLASSES)
    model.load_weights(published())
    return model.eval()


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def edit_config(folder: Path, **changes) -> None:
    path = folder / 'config.json'
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value != '-'}))


@pytest.fixture
def folder(tmp_path):
    golden_model().save_pretrained(tmp_path / 'saved')
    return tmp_path / 'saved'


@pytest.mark.parametrize('name', ARGUMENTS)
@torch.no_grad()
def test_round_trip(name, tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHS, 'tiny', VHeatArch(depths=(1, 1, 1), dims=8))
    model = VHeatModel(**ARGUMENTS[name]).eval()
    assert model.save_pretrained(tmp_path) is None
    assert contents(tmp_path) == FILES
    again = VHeatModel.from_pretrained(tmp_path)
    assert not again.training and again.arguments() == model.arguments()
    assert json.loads((tmp_path / 'config.json').read_text()) == model.arguments()
    assert again.backbone.arch == model.backbone.arch
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in again.state_dict().items())
    images = torch.randn(2, model.in_channels, 37, 18)
    assert torch.equal(again(images), model(images))
    with safe_open(tmp_path / 'model.safetensors', 'pt') as file:
        assert set(file.keys()) == set(state)


@torch.no_grad()
def test_the_file_has_the_keys_and_the_model_the_numbers_of_the_published_one(folder):
    with safe_open(folder / 'model.safetensors', 'pt') as file:
        assert set(file.keys()) == set(mmpretrain())
        assert file.metadata() == {'format': 'pt'}, 'transformers looks for it'
    logits = VHeatModel.from_pretrained(folder)(golden_tensor(1, (2, 3, 64, 64)))
    golden = torch.from_numpy(golden_npz('tiny_like')['cls/logits'])
    torch.testing.assert_close(logits, golden, atol=1e-5 * max(1, golden.abs().max()), rtol=0)


@torch.no_grad()
def test_a_published_file_becomes_a_folder(tmp_path):
    torch.save({'model': published(), 'epoch': 299}, tmp_path / 'x.pth')
    model = VHeatModel.from_checkpoint(tmp_path / 'x.pth', arch=golden_arch('tiny_like'))
    assert type(model) is VHeatModel
    model.save_pretrained(tmp_path / 'saved')
    again = VHeatModel.from_pretrained(str(tmp_path / 'saved'))
    assert again.num_classes == 10
    assert all(torch.equal(value, mmpretrain()[key]) for key, value in again.state_dict().items())


@torch.no_grad()
def test_arguments_in_place_of_the_stored_ones(folder):
    stored = VHeatModel.from_pretrained(folder)
    images = torch.randn(1, 3, 96, 50)
    fitted = VHeatModel.from_pretrained(folder, img_size=(96, 50), drop_path_rate=0.3)
    assert fitted.arguments()['img_size'] == [96, 50] and fitted.drop_path_rate == 0.3
    torch.testing.assert_close(fitted(images), stored(images), atol=1e-5, rtol=0)
    assert (stored.classes, fitted.classes) == (CLASSES, CLASSES)

    bare = VHeatModel.from_pretrained(folder, num_classes=0)
    assert bare.classes is None
    torch.testing.assert_close(stored.head.fc(bare(images)), stored(images), atol=1e-5, rtol=0)

    with pytest.raises(UserError, match='10 classes.* num_classes=4.*ignore_mismatched_sizes=True'):
        VHeatModel.from_pretrained(folder, num_classes=4)
    options = dict(num_classes=4, ignore_mismatched_sizes=True)
    anew = VHeatModel.from_pretrained(folder, **options)
    assert anew.classes is None and anew(images).shape == (1, 4)
    torch.testing.assert_close(anew.forward_features(images), stored.forward_features(images))
    named = VHeatModel.from_pretrained(folder, classes=['a', 'b', 'c', 'd'], **options)
    assert named.classes == ('a', 'b', 'c', 'd')
    with pytest.raises(TypeError, match='number_of_classes'):
        VHeatModel.from_pretrained(folder, number_of_classes=4)


def test_the_device_of_the_model(folder):
    model = VHeatModel.from_pretrained(folder, map_location='meta')
    assert {parameter.device.type for parameter in model.parameters()} == {'meta'}


@pytest.mark.parametrize('form', ['bare', 'DDP', 'mmengine', 'published'])
def test_a_pickled_file_is_read_safely(form, folder):
    content = {
        'bare': mmpretrain(),
        'DDP': wrapped(mmpretrain()),
        'mmengine': mmengine(mmpretrain()),
        'published': {'model': published()},
    }[form]
    (folder / 'model.safetensors').unlink()
    torch.save(content, folder / 'pytorch_model.bin')
    model = VHeatModel.from_pretrained(folder)
    assert torch.equal(model.head.fc.weight, mmpretrain()['head.fc.weight'])


def test_a_hostile_file_runs_nothing(folder):
    (folder / 'model.safetensors').unlink()
    canary = folder / 'canary'
    (folder / 'pytorch_model.bin').write_bytes(hostile_pickle(canary))
    with pytest.raises(UserError, match='could run code'):
        VHeatModel.from_pretrained(folder)
    assert not canary.exists()


def break_folder(folder: Path, how: str) -> None:
    """Make a folder one that cannot be used."""
    config, weights = folder / 'config.json', folder / 'model.safetensors'
    if how == 'no config':
        config.unlink()
    elif how == 'no weights':
        weights.unlink()
    elif how == 'no JSON':
        config.write_text('{"arch": ')
    elif how == "another library's config":
        edit_config(folder, arch='-', architectures=['ResNet'])
    elif how == 'another arch':
        edit_config(folder, arch=ARCH)
    elif how == 'unknown arch':
        edit_config(folder, arch='huge')
    elif how == 'another number of classes':
        edit_config(folder, num_classes=4, classes=None)
    elif how == 'names of too many classes':
        edit_config(folder, num_classes=4)
    elif how == 'truncated':
        weights.write_bytes(weights.read_bytes()[:5000])
    elif how == 'incomplete':
        state = mmpretrain()
        del state['backbone.outnorm3.weight']
        write_checkpoint(weights, state, {}, force=True)
    elif how == 'folded':
        model = golden_model()
        model.backbone.fold()
        write_checkpoint(weights, model.state_dict(), {}, force=True)
    elif how == 'missing':
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ('how', 'message'),
    [
        ('no config', r'no config\.json .*from_checkpoint\(.*model\.safetensors'),
        ('no weights', 'neither model.safetensors nor pytorch_model.bin'),
        ('no JSON', r'config\.json cannot be read'),
        ("another library's config", r'no config\.json of a VHeatModel'),
        ('another arch', r'of a vHeat of depths 1, 1, 2, 1, .* this is a vHeat of depths 1, 2'),
        ('unknown arch', "unknown arch 'huge'"),
        ('another number of classes', 'the weights have 10 classes, the model has num_classes=4'),
        ('names of too many classes', 'num_classes is 4, but classes has 10 names'),
        ('truncated', 'no complete safetensors file'),
        ('incomplete', r'1 missing \(backbone\.outnorm3\.weight\)'),
        ('folded', 'already folded for inference'),
        ('missing', 'is no local folder'),
    ],
)
def test_a_folder_that_cannot_be_used_gives_one_line(how, message, folder):
    break_folder(folder, how)
    with pytest.raises(UserError, match=message) as error:
        VHeatModel.from_pretrained(folder, local_files_only=True)
    assert '\n' not in str(error.value)


def test_a_folded_model_is_not_saved(folder):
    model = VHeatModel.from_pretrained(folder)
    model.backbone.fold()
    with pytest.raises(UserError, match='before it is folded'):
        model.save_pretrained(folder)
    assert VHeatModel.from_pretrained(folder).backbone.folded_for is None, 'the folder is as it was'


def cached(folder: Path, cache: Path, repo: str) -> None:
    """Put a folder where the Hub's client keeps what it has downloaded."""
    home, commit = cache / f'models--{repo.replace("/", "--")}', '0' * 40
    shutil.copytree(folder, home / 'snapshots' / commit)
    (home / 'refs').mkdir()
    (home / 'refs' / 'main').write_text(commit)


@pytest.mark.parametrize('weights', ['model.safetensors', 'pytorch_model.bin'])
def test_a_name_on_the_hub(weights, folder, tmp_path):
    """By the real client, from its cache."""
    if weights.endswith('.bin'):
        (folder / 'model.safetensors').unlink()
        torch.save(mmpretrain(), folder / weights)
    cached(folder, tmp_path / 'cache', 'someone/vheat')
    options = dict(cache_dir=tmp_path / 'cache', local_files_only=True)
    model = VHeatModel.from_pretrained('someone/vheat', **options)
    assert torch.equal(model.head.fc.weight, mmpretrain()['head.fc.weight'])
    assert model.classes == CLASSES
    for name, revision in (('someone/else', 'main'), ('someone/vheat', 'v2')):
        with pytest.raises(UserError, match=f'^{name} is no local folder, and cannot be had'):
            VHeatModel.from_pretrained(name, revision=revision, **options)


@pytest.mark.parametrize('by', ['push_to_hub', 'save_pretrained'])
def test_what_is_pushed(by, tmp_path, monkeypatch):
    """The upload, by a stand-in for the Hub's interface."""
    pushed = []

    class Api:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repo_id, private, exist_ok):
            assert exist_ok
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id, folder_path, revision, **_):
            pushed.append((repo_id, revision, self.token, contents(Path(folder_path))))
            return VHeatModel.from_pretrained(folder_path).arguments()

    monkeypatch.setattr(hub_mixin, 'HfApi', Api)
    model = golden_model()
    options = dict(token='secret', branch='new')
    if by == 'push_to_hub':
        link = model.push_to_hub('someone/vheat', **options)
    else:
        link = model.save_pretrained(tmp_path, push_to_hub=True, repo_id='someone/vheat', **options)
    assert pushed == [('someone/vheat', 'new', 'secret', FILES)]
    assert link == model.arguments()


def published_card(arch: str, **arguments) -> ModelCard:
    with torch.device('meta'):
        return VHeatModel(arch, **arguments).generate_model_card()


@pytest.mark.parametrize('arch', PUBLISHED_CLASSIFIERS)
def test_the_card_says_where_its_figures_come_from(arch):
    card = published_card(arch)
    millions = {'tiny': '30.85', 'small': '52.22', 'base': '92.13'}
    (row,) = [line for line in card.text.splitlines() if '| parameters |' in line]
    assert f' {millions[arch]} M ' in row and 'counted by mmvheat' in row
    (row,) = [line for line in card.text.splitlines() if 'top-1' in line]
    assert f' {PUBLISHED_CLASSIFIERS[arch].top1} % ' in row
    assert 'reported by the paper, not reproduced with this code' in row
    assert 'name no licence' in card.text and 'license' not in card.data.to_dict()
    assert (card.data.library_name, card.data.pipeline_tag) == ('mmvheat', 'image-classification')
    assert 'vheat' in card.data.tags and 'wang2025vheat' in card.text
    assert not card.data.eval_results


@pytest.mark.parametrize(
    'arguments',
    [
        dict(arch=ARCH),
        dict(arch='tiny', num_classes=10),
        dict(arch='tiny', in_channels=4),
        dict(arch='tiny', num_classes=0),
    ],
)
def test_the_card_of_another_model_claims_no_accuracy(arguments):
    card = published_card(**arguments)
    assert 'top-1' not in card.text and 'reported' not in card.text
    kind = 'image-classification' if arguments.get('num_classes') != 0 else None
    assert card.data.pipeline_tag == (kind or 'image-feature-extraction')
    assert published_card('tiny').data.pipeline_tag == 'image-classification'


def test_the_code_of_the_card_runs(folder):
    """Its five lines, from the folder that it stands in."""
    model = golden_model()
    card = model.generate_model_card(weights='Random.', repo_id=str(folder))
    assert 'Random.' in card.text and 'not recorded: say' not in card.text
    _, _, code = card.text.partition('```python\n')
    names = {}
    exec(code.partition('```')[0], names)
    assert names['logits'].shape == (1, 10)


def test_a_card_that_was_edited_stays(folder):
    (folder / 'README.md').write_text('mine')
    VHeatModel.from_pretrained(folder).save_pretrained(folder)
    assert (folder / 'README.md').read_text() == 'mine'


def test_it_is_the_classifier(folder):
    """What it is trained and compiled as: nothing of the Hub's is in its state or its forward."""
    model = VHeatModel.from_pretrained(folder)
    plain = VHeatClassifier(**model.arguments()).eval()
    plain.load_state_dict(model.state_dict(), strict=True)
    images = torch.randn(1, 3, 33, 20)
    torch.testing.assert_close(plain(images), model(images))
