"""Layer-wise learning rates, for the models of the three libraries."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmvheat.models import VHeat

CONFIGS = Path(__file__).parents[1] / 'tools' / 'configs'
LR, DECAY = 0.1, 0.5


def _build(constructor: str, model: nn.Module, scope: str = 'mmengine', **options):
    config = dict(
        optimizer=dict(type='AdamW', lr=LR, weight_decay=0.2),
        constructor=constructor,
        paramwise_cfg=options,
    )
    with DefaultScope.overwrite_default_scope(scope):
        return build_optim_wrapper(model, config)


def _settings(model: nn.Module, **options) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every trained parameter, each of which is in one group."""
    wrapper = _build('mmvheat.LayerDecayOptimWrapperConstructor', model, **options)
    model = getattr(model, 'module', model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {}
    count = Counter()
    for group in wrapper.optimizer.param_groups:
        for parameter in group['params']:
            count[parameter] += 1
            found[names[parameter]] = (group['lr'], group['weight_decay'])
    assert set(count) == {parameter for parameter in names if parameter.requires_grad}
    assert set(count.values()) == {1}
    return found


@pytest.fixture
def model():
    arch = dict(depths=(2, 1, 3), dims=4)
    backbone = VHeat(arch, img_size=32, out_indices=(1, 2))
    return nn.ModuleDict(dict(backbone=backbone, head=nn.Linear(16, 2)))


def _scales(settings: dict[str, tuple[float, float]]) -> dict[str, float]:
    return {name: lr / LR for name, (lr, _) in settings.items()}


def test_every_layer_learns_faster_than_the_one_before(model):
    scales = _scales(_settings(model, layer_decay_rate=DECAY))
    order = [
        ['patch_embed.conv1.weight', 'patch_embed.norm2.1.bias'],
        ['layers.0.0.norm1.weight', 'freq_embed.0'],
        ['layers.0.1.mlp.fc1.bias', 'layers.0.2.0.weight', 'layers.0.2.1.bias'],
        ['layers.1.0.op.to_k.0.weight', 'freq_embed.1', 'layers.1.1.0.weight'],
        ['layers.2.0.op.dwconv.weight', 'freq_embed.2'],
        ['layers.2.1.norm2.weight'],
        ['layers.2.2.op.linear.weight'],
        ['outnorm1.weight', 'outnorm2.bias'],
    ]
    for layer, names in enumerate(order):
        for name in names:
            assert scales.pop(f'backbone.{name}') == pytest.approx(DECAY ** (7 - layer)), name
    assert scales['head.weight'] == scales['head.bias'] == 1
    assert set(scales.values()) == {DECAY**n for n in range(8)}


def test_no_decay_is_the_default_constructor(model):
    options = dict(norm_decay_mult=0.0, custom_keys={'freq': dict(lr_mult=3, decay_mult=0.5)})
    settings = _settings(model, layer_decay_rate=1, **options)
    plain = _build('DefaultOptimWrapperConstructor', model, **options)
    expected = [(group['lr'], group['weight_decay']) for group in plain.optimizer.param_groups]
    names = {parameter: name for name, parameter in model.named_parameters()}
    order = [names[group['params'][0]] for group in plain.optimizer.param_groups]
    assert settings == dict(zip(order, expected, strict=True))


def test_the_usual_options_multiply(model):
    settings = _settings(
        model,
        layer_decay_rate=DECAY,
        bias_lr_mult=2.0,
        flat_decay_mult=0.0,
        custom_keys={'head': dict(lr_mult=10, decay_mult=0.5)},
    )
    assert settings['head.weight'] == pytest.approx((LR * 10, 0.1))
    assert settings['backbone.layers.2.2.op.linear.bias'] == pytest.approx((LR * 2 * DECAY, 0.0))
    assert settings['backbone.layers.2.2.norm1.bias'] == pytest.approx((LR * DECAY, 0.0))
    assert settings['backbone.freq_embed.2'] == pytest.approx((LR * DECAY**3, 0.2))


@pytest.mark.parametrize('frozen', [-1, 0, 2, 3])
@pytest.mark.parametrize('wrapped', [False, True])
def test_frozen_stages_are_left_out_and_change_nothing(model, frozen, wrapped):
    everything = _settings(model, layer_decay_rate=DECAY)
    model.backbone.frozen_stages = frozen
    model.backbone.train()
    trained = _settings(nn.DataParallel(model) if wrapped else model, layer_decay_rate=DECAY)
    assert trained.items() <= everything.items()
    assert any(name.startswith('backbone.layers.0') for name in trained) == (frozen < 1)


@pytest.mark.parametrize('library', ['classification', 'detection', 'segmentation'])
def test_the_models_of_the_libraries(library, monkeypatch):
    monkeypatch.setenv('TINY_DATA', 'none')
    config = Config.fromfile(CONFIGS / f'{library}.py')
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(config.model)
    scales = _scales(_settings(model, layer_decay_rate=DECAY))
    assert scales['backbone.patch_embed.conv1.weight'] == pytest.approx(DECAY**5)
    assert scales['backbone.layers.3.0.op.linear.weight'] == pytest.approx(DECAY)
    behind = {name for name in scales if not name.startswith('backbone.')}
    assert len(behind) > 1
    assert {scales[name] for name in behind} == {1}


def test_the_constructor_of_mmpretrain_agrees(monkeypatch):
    monkeypatch.setenv('TINY_DATA', 'none')
    config = Config.fromfile(CONFIGS / 'classification.py')
    options = dict(layer_decay_rate=DECAY, norm_decay_mult=0.0, flat_decay_mult=0.0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(config.model)
    theirs = _build('LearningRateDecayOptimWrapperConstructor', model, 'mmpretrain', **options)
    assert _settings(model, **options) == {
        group['param_name']: (group['lr'], group['weight_decay'])
        for group in theirs.optimizer.param_groups
    }


def test_a_backbone_alone_and_a_short_log(model, caplog, monkeypatch):
    lines = []
    monkeypatch.setattr('mmvheat.engine.layer_decay.print_log', lambda text, _: lines.append(text))
    wrapper = _build('LayerDecayOptimWrapperConstructor', model.backbone, layer_decay_rate=DECAY)
    # Two groups a layer at most: no setting but the learning rate differs.
    assert len(wrapper.optimizer.param_groups) == 8
    (table,) = lines
    assert table.count('\n') == 1 + 8
    assert f'0    0.00781   0.000781  {len(list(model.backbone.patch_embed.parameters())):>10}' in (
        table
    )
    assert 'paramwise_options' not in caplog.text


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(), 'layer_decay_rate is a number in .0, 1.*got None'),
        (dict(layer_decay_rate=0), 'got 0'),
        (dict(layer_decay_rate=1.5), 'got 1.5'),
        (dict(layer_decay_rate='0.9'), "got '0.9'"),
        (dict(layer_decay_rate=True), 'got True'),
        (dict(decay_rate=0.9, num_layers=12), 'unknown decay_rate, num_layers: .*layer_decay_rate'),
    ],
)
def test_wrong_options_are_one_clear_line(model, options, said):
    with pytest.raises(ValueError, match=said) as caught:
        _build('mmvheat.LayerDecayOptimWrapperConstructor', model, **options)
    assert '\n' not in str(caught.value)


def test_a_backbone_that_does_not_count_its_layers():
    model = nn.ModuleDict(dict(backbone=nn.Linear(2, 2)))
    with pytest.raises(ValueError, match='get_layer_depth.*ModuleDict has Linear'):
        _build('mmvheat.LayerDecayOptimWrapperConstructor', model, layer_decay_rate=0.9)


def test_a_step_moves_by_the_scaled_rate(model):
    wrapper = _build('mmvheat.LayerDecayOptimWrapperConstructor', model, layer_decay_rate=DECAY)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for group in wrapper.optimizer.param_groups:
        group['weight_decay'] = 0.0
    wrapper.step()
    # The first step of Adam is the learning rate.
    moved = {name: (before[name] - p).abs().max().item() for name, p in model.named_parameters()}
    assert moved['head.bias'] == pytest.approx(LR, rel=1e-4)
    assert moved['backbone.layers.0.0.norm1.bias'] == pytest.approx(LR * DECAY**6, rel=1e-3)
