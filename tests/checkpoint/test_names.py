import pytest
import torch
from golden import MODELS, golden_arch, golden_state

from mmvheat.checkpoint.names import (
    backbone_prefix,
    backbone_shapes,
    classes_of,
    count_classes,
    mmpretrain_name,
    model_kind,
    published_name,
    shown,
    unwrapped_names,
)
from mmvheat.errors import UserError
from mmvheat.models import VHeat


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'module.', 'module.backbone.', 'a.b.'])
def test_prefix(prefix):
    names = [prefix + name for name in golden_state('tiny_like')]
    assert backbone_prefix([*names, 'steps']) == prefix


def test_other_models_are_refused():
    names = list(golden_state('tiny_like'))
    operators = [name for name in names if '.op.' in name]
    for others, says in {
        ('conv1.weight', 'fc.weight'): 'another model than vHeat.*first is conv1.weight',
        ('freq_embed.0', 'layers.0.0.attn.weight'): 'another model than vHeat',
        (): 'another model than vHeat',
        tuple(operators): 'without frequency embeddings.*training checkpoint',
        (*operators, 'layers.0.0.op.k_exp'): r'folded for inference \(layers.0.0.op.k_exp\)',
        (*names, 'layers.0.0.op.k_exp'): 'folded for inference',
        (*names, *(f'teacher.{name}' for name in names)): "several vHeat backbones.*'teacher.'",
    }.items():
        with pytest.raises(UserError, match=says):
            backbone_prefix(others)


@pytest.mark.parametrize(
    'name, prefix, new',
    [
        ('freq_embed.0', '', 'backbone.freq_embed.0'),
        ('module.layers.0.2.0.weight', 'module.', 'backbone.layers.0.2.0.weight'),
        ('classifier.0.weight', '', 'backbone.outnorm3.weight'),
        ('module.classifier.3.bias', 'module.', 'head.fc.bias'),
        ('backbone.outnorm3.bias', 'backbone.', 'backbone.outnorm3.bias'),
        ('module.backbone.freq_embed.1', 'module.backbone.', 'backbone.freq_embed.1'),
        ('module.head.fc.bias', 'module.backbone.', 'head.fc.bias'),
        ('neck.convs.0.weight', 'backbone.', 'neck.convs.0.weight'),
        ('steps', 'module.backbone.', None),
    ],
)
def test_names(name, prefix, new):
    assert mmpretrain_name(name, prefix, last_stage=3) == new


def test_unknown_classifier_layer():
    with pytest.raises(ValueError, match='classifier.5.weight: expected classifier.0'):
        mmpretrain_name('classifier.5.weight', '', last_stage=3)


@pytest.mark.parametrize(
    'name', ['patch_embed.conv1.bias', 'classifier.0.bias', 'classifier.3.weight']
)
def test_published_names_come_back(name):
    assert published_name(mmpretrain_name(name, '', 3), 3) == name


@pytest.mark.parametrize('name', ['head.layers.0.weight', 'neck.convs.0.weight', 'steps'])
def test_what_a_published_classifier_has_no_place_for(name):
    with pytest.raises(UserError, match=f'{name} has no place in a published classifier'):
        published_name(name, 3)


NAMES = ['backbone.layers.0.0.op.linear.weight', 'backbone.freq_embed.0', 'head.fc.bias']
WRAPPED = {
    'plain': NAMES,
    'DDP': [f'module.{name}' for name in NAMES],
    'average': [*(f'module.{name}' for name in NAMES), 'steps'],
    "torch's average": [*(f'module.{name}' for name in NAMES), 'n_averaged'],
    'compiled': [f'_orig_mod.{name}' for name in NAMES],
    'compiled, DDP': [f'_orig_mod.module.{name}' for name in NAMES],
    'DDP, compiled': [f'module._orig_mod.{name}' for name in NAMES],
    'average of DDP': [*(f'module.module.{name}' for name in NAMES), 'steps'],
    'part compiled': [name.replace('layers.0.', 'layers.0._orig_mod.') for name in NAMES],
    'parts in DDP': [name.replace('.', '.module.', 1) for name in NAMES],
    'recomputed': [name.replace('0.0.', '0.0._checkpoint_wrapped_module.') for name in NAMES],
    'sharded': [f'_fsdp_wrapped_module.{name}' for name in NAMES],
}


@pytest.mark.parametrize('form', WRAPPED)
def test_wrappers_go_wherever_they_stand(form):
    unwrapped = unwrapped_names(WRAPPED[form])
    assert list(unwrapped) == WRAPPED[form]
    assert [name for name in unwrapped.values() if name is not None] == NAMES
    assert [old for old, name in unwrapped.items() if name is None] == [
        name for name in WRAPPED[form] if name in ('steps', 'n_averaged')
    ]


def test_a_module_of_that_name_is_no_wrapper():
    names = [
        'head.module.weight',
        'head.fc.weight',
        'module',
        'a.module',
        'steps',
        '',
        '..',
        'b.steps',
    ]
    assert unwrapped_names(names) == {name: name for name in names}


@pytest.mark.parametrize('inference_form', [False, True])
@pytest.mark.parametrize('name', MODELS)
def test_the_grammar_spells_the_backbone(name, inference_form):
    arch = golden_arch(name)
    model = VHeat(arch, img_size=(64, 96), in_channels=4, inference_form=inference_form)
    shapes = {
        key: tuple(value.shape)
        for key, value in model.state_dict().items()
        if not key.startswith('outnorm')
    }
    dims = model.arch.dims
    spelt = backbone_shapes(
        model.arch.depths,
        tuple((16 >> i, 24 >> i, dim) for i, dim in enumerate(dims)),
        tuple(int(dim * arch['mlp_ratio']) for dim in dims),
        arch['layer_scale_init_value'] is not None,
        4,
        inference_form,
    )
    assert spelt == shapes


@pytest.mark.parametrize(
    'layers, kind, classes',
    [
        ({'head.fc': (7, 4)}, 'classifier', 7),
        ({'classifier.0': (4,), 'classifier.3': (7, 4)}, 'classifier', 7),
        ({}, 'backbone', None),
        (
            {'rpn_head.a': (1,), 'roi_head.bbox_head.fc_cls': (8, 4), 'roi_head.mask_head.a': (1,)},
            'Mask R-CNN',
            7,
        ),
        ({'rpn_head.a': (1,), 'roi_head.bbox_head.fc_cls': (8, 4)}, 'Faster R-CNN', 7),
        ({'roi_head.bbox_head.0.fc_cls': (8, 4)}, 'Cascade R-CNN', 7),
        (
            {'bbox_head.retina_cls': (63, 4, 3, 3), 'bbox_head.retina_reg': (36, 4, 3, 3)},
            'RetinaNet',
            7,
        ),
        ({'bbox_head.atss_cls': (7, 4, 3, 3), 'bbox_head.atss_reg': (4, 4, 3, 3)}, 'ATSS', 7),
        ({'bbox_head.something': (1, 2)}, 'detector', None),
        ({'decode_head.psp_modules.0': (1,), 'decode_head.conv_seg': (7, 4, 1, 1)}, 'UperNet', 7),
        ({'decode_head.scale_heads.0': (1,)}, 'Semantic FPN', None),
        ({'decode_head.conv_seg': (7, 4, 1, 1)}, 'segmentor', 7),
        ({'head.fc': (7,)}, 'classifier', None),
    ],
)
def test_kinds_and_classes(layers, kind, classes):
    backbone = {f'backbone.{name}': value for name, value in golden_state('mlp2').items()}
    tensors = {f'{layer}.weight': torch.ones(shape) for layer, shape in layers.items()}
    assert model_kind({**backbone, **tensors}) == kind
    assert count_classes(tensors) == classes


def test_names_are_shown_in_one_short_line():
    assert shown('a.b') == 'a.b' and shown('a\nb') == 'a\\nb' and shown(3) == '3'
    assert len(shown('x' * 10**6)) == 80


@pytest.mark.parametrize(
    'layer, outputs, classes',
    [
        ('head.fc', 10, 10),
        ('roi_head.bbox_head.fc_cls', 81, 80),
        ('roi_head.bbox_head.1.fc_cls', 81, 80),
        ('auxiliary_head.conv_seg', 150, 150),
        ('decode_head.0.conv_seg', 150, 150),
        ('bbox_head.retina_cls', 720, None),
        ('roi_head.bbox_head.fc_reg', 320, None),
    ],
)
def test_classes_of_a_layer_in_any_head(layer, outputs, classes):
    assert classes_of(layer, outputs) == classes
