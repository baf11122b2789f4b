"""torch.hub with the clone: the three models, and the published files they load."""

import io
from pathlib import Path

import pytest
import torch
from checkpoint_kinds import CLASSES, published
from golden import golden_arch, golden_npz, golden_tensor
from web import serve

from mmvheat.errors import UserError
from mmvheat.models import ARCHS, PUBLISHED_CLASSIFIERS, VHeatClassifier
from mmvheat.models.arch import resolve_arch
from mmvheat.models.published_weights import PublishedClassifier

ROOT = str(Path(__file__).parents[1])
NAMES = [f'vheat_{arch}' for arch in PUBLISHED_CLASSIFIERS]


def load(name: str, **arguments) -> VHeatClassifier:
    return torch.hub.load(ROOT, name, source='local', **arguments)


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A published file of the golden model in the place of vHeat-T's."""
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    monkeypatch.setitem(ARCHS, 'tiny', resolve_arch(golden_arch('tiny_like')))
    content = io.BytesIO()
    torch.save({'model': published(), 'epoch': 299}, content)
    with serve() as web:
        web.files['vHeat_tiny.pth'] = content.getvalue()
        classifier = PublishedClassifier(web.url('vHeat_tiny.pth'), top1=0.0)
        monkeypatch.setitem(PUBLISHED_CLASSIFIERS, 'tiny', classifier)
        yield web


def test_the_models_and_their_help(tmp_path, monkeypatch):
    """As for a repository of GitHub, which torch.hub has downloaded before."""
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    (tmp_path / 'someone_mmvheat_main').symlink_to(ROOT)
    repository = dict(github='someone/mmvheat:main', trust_repo=True)
    assert sorted(torch.hub.list(**repository)) == sorted(NAMES)
    for name in NAMES:
        text = torch.hub.help(**repository, model=name)
        assert text.startswith(f'vHeat-{name[6].upper()}, a classifier')


@pytest.mark.parametrize('arch', PUBLISHED_CLASSIFIERS)
def test_models_without_weights(arch):
    arguments = dict(num_classes=7, in_channels=2, img_size=(96, 64), drop_path_rate=0.3)
    with torch.device('meta'):
        model = load(f'vheat_{arch}', **arguments)
        assert load(f'vheat_{arch}').arguments()['num_classes'] == 1000
    assert type(model) is VHeatClassifier and model.training
    assert model.arguments() == dict(arguments, arch=arch, img_size=[96, 64], classes=None)


@torch.no_grad()
def test_the_published_weights(web):
    for _ in range(2):
        model = load('vheat_tiny', pretrained=True, num_classes=10, img_size=64)
    assert web.asked == ['vHeat_tiny.pth'], 'one download'
    golden = torch.from_numpy(golden_npz('tiny_like')['cls/logits'])
    assert not model.training
    torch.testing.assert_close(
        model(golden_tensor(1, (2, 3, 64, 64))),
        golden,
        atol=1e-5 * max(1, golden.abs().max()),
        rtol=0,
    )


def test_other_classes_start_anew_and_none_leave_the_classifier_behind(web):
    model = load('vheat_tiny', pretrained=True, num_classes=len(CLASSES) + 1, img_size=96)
    assert not model.head.fc.bias.any()
    assert torch.equal(model.backbone.outnorm3.weight, published()['classifier.0.weight'])
    assert load('vheat_tiny', pretrained=True, num_classes=0)(torch.zeros(1, 3, 32, 32)).dim() == 2


def test_a_file_of_another_arch_gives_one_line(web, monkeypatch):
    monkeypatch.setitem(ARCHS, 'tiny', resolve_arch(dict(depths=(1, 1, 1, 1), dims=8)))
    with pytest.raises(UserError, match='of a vHeat of depths 1, 1, 2, 1') as error:
        load('vheat_tiny', pretrained=True)
    assert '\n' not in str(error.value)
