"""The published code's files load as they are, through everything that mmengine loads with."""

import pytest
import torch
from golden import golden_arch, golden_npz, golden_state, golden_tensor
from mmengine.runner import load_checkpoint

import mmvheat  # noqa: F401  (registers the loaders)
from mmvheat.checkpoint import as_mmengine_checkpoint
from mmvheat.cli.preflight import open_checkpoint
from mmvheat.errors import UserError
from mmvheat.models import VHeat

GOLDEN = ('tiny_like', 'base_like', 'postnorm_noscale', 'mlp2')


def _classifier_state(name):
    state = golden_state(name)
    return {key: value for key, value in state.items() if not key.startswith('outnorm')}


def _published(form, state):
    return {
        'model': {'model': state, 'optimizer': {'state': {}}, 'epoch': 299},
        'model_ema': {'model_ema': state},
        'bare': state,
        'module': {'model': {f'module.{name}': value for name, value in state.items()}},
        'safetensors': {'state_dict': state, 'meta': {}},
    }[form]


@pytest.mark.parametrize('name', GOLDEN)
@pytest.mark.parametrize('form', ['model', 'model_ema', 'bare', 'module', 'safetensors'])
def test_golden_logits_come_out_of_an_image_classifier(name, form, tmp_path):
    models = pytest.importorskip('mmpretrain.models')
    state, golden = _classifier_state(name), golden_npz(name)
    path = str(tmp_path / 'vheat.pth')
    torch.save(_published(form, state), path)
    classes, width = state['classifier.3.weight'].shape
    classifier = models.ImageClassifier(
        backbone=dict(type='mmvheat.VHeat', arch=golden_arch(name), img_size=64, out_indices=(3,)),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=classes, in_channels=width),
    ).eval()
    load_checkpoint(classifier, path, strict=True)
    with torch.no_grad():
        features = classifier.extract_feat(golden_tensor(1, (2, 3, 64, 64)))
        logits = classifier.head(features)
    torch.testing.assert_close(logits, torch.from_numpy(golden['cls/logits']), rtol=1e-4, atol=1e-4)


def test_a_backbone_takes_the_file_by_init_cfg(tmp_path):
    state, path = _classifier_state('tiny_like'), str(tmp_path / 'vheat.pth')
    torch.save({'model': state}, path)
    init_cfg = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    model = VHeat(golden_arch('tiny_like'), img_size=64, init_cfg=init_cfg)
    model.init_weights()
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items() if name in loaded)


@pytest.mark.parametrize(
    'checkpoint',
    [
        {'state_dict': {'backbone.layers.0.0.op.linear.weight': torch.ones(1)}, 'meta': {}},
        {'model': {'layers.0.weight': torch.ones(1), 'classifier.weight': torch.ones(1)}},
        {'layers.0.0.op.linear.weight': torch.ones(1)},
        {'state_dict': {}},
        {},
        [1],
    ],
)
def test_all_other_files_are_left_alone(checkpoint):
    assert as_mmengine_checkpoint(checkpoint) is checkpoint


def test_a_folded_file_is_one_clear_line(tmp_path):
    state = golden_state('tiny_like')
    state['layers.0.0.op.k_exp'] = torch.ones(1)
    torch.save({'model': state}, tmp_path / 'folded.pth')
    with pytest.raises(UserError, match=r'folded\.pth: already folded for inference'):
        open_checkpoint(str(tmp_path / 'folded.pth'))
