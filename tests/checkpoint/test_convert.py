import pytest
import torch
from checkpoint_kinds import backbone, every_kind, mmpretrain
from golden import MODELS, golden_npz, golden_state

from mmvheat.checkpoint import classifier_state, convert_state_dict, find_state_dict
from mmvheat.checkpoint.convert import as_size
from mmvheat.ops import FREQ_EMBED_MODES, freq_embed_size

EMBEDS = [f'backbone.freq_embed.{stage}' for stage in range(4)]


def published(name='tiny_like'):
    """A published classifier: it has no output norms but its own."""
    return {k: v for k, v in golden_state(name).items() if not k.startswith('outnorm')}


def detector():
    """An mmdet state dict: output norms, neck and head beside the backbone."""
    state = {k: v for k, v in golden_state('tiny_like').items() if not k.startswith('classifier')}
    return {
        **{f'backbone.{name}': tensor for name, tensor in state.items()},
        'neck.fpn_convs.0.conv.weight': torch.ones(2, 2, 3, 3),
        'roi_head.bbox_head.fc_cls.bias': torch.zeros(11),
    }


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_pad_is_what_the_published_converter_writes():
    golden = golden_npz('converter_64_to_128')
    converted, _ = convert_state_dict(golden_state('tiny_like'), 64, 128, mode='pad')
    for stage in range(4):
        expected = torch.from_numpy(golden[f'freq_embed.{stage}'])
        assert torch.equal(converted[f'backbone.freq_embed.{stage}'], expected)


@pytest.mark.parametrize('mode', FREQ_EMBED_MODES)
@pytest.mark.parametrize('name', MODELS)
def test_same_size_is_the_identity(name, mode):
    state = golden_state(name)
    converted, report = convert_state_dict(state, 64, 64, mode)
    assert_equal(
        converted,
        {f'backbone.{k}': v for k, v in state.items() if not k.startswith('classifier')},
    )
    assert report.resized == {}


def test_padding_loses_nothing():
    state = published()
    padded, _ = convert_state_dict(state, 64, (96, 77), mode='pad')
    for stage, name in enumerate(EMBEDS):
        source = state[f'freq_embed.{stage}']
        height, width = source.shape[:2]
        assert padded[name].shape[:2] == freq_embed_size((96, 77), stage)
        assert torch.equal(padded[name][:height, :width], source)
        padded[name][:height, :width] = 0
        assert not padded[name].any()


@pytest.mark.parametrize('mode', FREQ_EMBED_MODES)
def test_only_embeddings_change_and_the_source_stays(mode):
    state = published()
    before = {name: tensor.clone() for name, tensor in state.items()}
    converted, report = convert_state_dict(state, 64, (101, 64), mode)
    assert_equal(state, before)
    for name, tensor in converted.items():
        if name in EMBEDS:
            stage = EMBEDS.index(name)
            assert tensor.shape[:2] == freq_embed_size((101, 64), stage)
            assert tensor.is_contiguous()
            assert report.resized[name] == (
                tuple(state[f'freq_embed.{stage}'].shape[:2]),
                tuple(tensor.shape[:2]),
            )
        else:
            assert torch.equal(tensor, state[name.removeprefix('backbone.')])


@pytest.mark.parametrize('mode', FREQ_EMBED_MODES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_is_kept(dtype, mode):
    state = {name: tensor.to(dtype) for name, tensor in published().items()}
    state['layers.0.0.counter'] = torch.tensor(3)
    converted, _ = convert_state_dict(state, 64, 128, mode)
    assert converted.pop('backbone.layers.0.0.counter').dtype == torch.int64
    assert {tensor.dtype for tensor in converted.values()} == {dtype}
    assert all(converted[name].isfinite().all() for name in EMBEDS)


@pytest.mark.parametrize('mode', FREQ_EMBED_MODES)
def test_going_up_and_back_in_two_sizes(mode):
    """A converted file is a source like any other: 64 -> 128 -> 96 fits --pt_size 128."""
    larger, _ = convert_state_dict(published(), 64, 128, mode)
    if mode == 'pad':
        with pytest.raises(ValueError, match='128 x 128 to 96 x 96'):
            convert_state_dict(larger, 128, 96, mode)
        mode = 'frequency'
    smaller, report = convert_state_dict(larger, 128, 96, mode)
    assert smaller[EMBEDS[0]].shape == (24, 24, 8)
    assert report.dropped == {}


def test_tasks_of_a_published_classifier():
    state = published()
    downstream, report = convert_state_dict(state, 64, 64)
    assert not [name for name in downstream if 'outnorm' in name or 'head' in name]
    assert set(report.dropped) == {name for name in state if name.startswith('classifier')}
    assert len(report.dropped) == 4

    kept, report = convert_state_dict(state, 64, 64, task='classification')
    assert report.dropped == {}
    assert torch.equal(kept['backbone.outnorm3.weight'], state['classifier.0.weight'])
    assert torch.equal(kept['backbone.outnorm3.bias'], state['classifier.0.bias'])
    assert torch.equal(kept['head.fc.weight'], state['classifier.3.weight'])
    assert torch.equal(kept['head.fc.bias'], state['classifier.3.bias'])
    assert kept.keys() - downstream.keys() == {
        'backbone.outnorm3.weight',
        'backbone.outnorm3.bias',
        'head.fc.weight',
        'head.fc.bias',
    }


def test_mmpretrain_classifier_equals_the_published_one():
    renamed, _ = convert_state_dict(published(), 64, 64, task='classification')
    for task in ('downstream', 'classification'):
        expected, _ = convert_state_dict(published(), 64, 128, task=task)
        assert_equal(convert_state_dict(renamed, 64, 128, task=task)[0], expected)
        averaged = {f'module.{name}': tensor for name, tensor in renamed.items()}
        averaged['steps'] = torch.tensor(9)
        converted, report = convert_state_dict(averaged, 64, 128, task=task)
        assert_equal(converted, expected)
        assert report.dropped['steps'] == 'not a weight of the model'


def test_output_norms_beside_a_published_classifier():
    """The norms are the backbone's; the classifier's own norm wins where it is kept."""
    state = golden_state('tiny_like')
    downstream, report = convert_state_dict(state, 64, 64)
    assert torch.equal(downstream['backbone.outnorm3.weight'], state['outnorm3.weight'])
    assert all(name.startswith('classifier.') for name in report.dropped)
    kept, report = convert_state_dict(state, 64, 64, task='classification')
    assert torch.equal(kept['backbone.outnorm3.weight'], state['classifier.0.weight'])
    assert set(report.dropped) == {'outnorm3.weight', 'outnorm3.bias'}


def test_detector_keeps_norms_neck_and_heads():
    state = detector()
    converted, report = convert_state_dict(state, 64, 128)
    assert converted.keys() == state.keys() and report.dropped == {}
    assert set(report.resized) == set(EMBEDS)
    assert torch.equal(converted['backbone.outnorm3.weight'], state['backbone.outnorm3.weight'])
    with pytest.raises(ValueError, match='no classifier.*--task downstream'):
        convert_state_dict(state, 64, 128, task='classification')


def test_every_tensor_is_accounted_for():
    state = {**{f'module.{k}': v for k, v in published().items()}, 'steps': torch.tensor(1)}
    converted, report = convert_state_dict(state, 64, 96)
    assert report.names.keys() | report.dropped.keys() == state.keys()
    assert not report.names.keys() & report.dropped.keys()
    assert set(report.names.values()) == converted.keys()
    lines = report.table().splitlines()
    assert lines[0].split() == 'resized backbone.freq_embed.0 16 x 16 -> 24 x 24'.split()
    text = '\n'.join(lines)
    assert f'module.* -> backbone.*  {len(report.names)} tensors' in text
    assert 'module.classifier.0.*' in text and 'steps' in text
    assert lines[-1].endswith(f'{len(report.names) - 4} tensors')


@pytest.mark.parametrize('size', [(64, 64), (61, 64), (64, 62), 63])
def test_source_sizes_that_give_the_same_maps_are_accepted(size):
    assert convert_state_dict(published(), size, 64)[1].resized == {}


@pytest.mark.parametrize('size', [32, 60, 65, 224, (64, 68), (128, 64), 1])
def test_source_size_that_contradicts_the_file(size):
    height, width = (size, size) if isinstance(size, int) else size
    says = f'source size {height} x {width} contradicts freq_embed.*fits --pt_size 64 64'
    with pytest.raises(ValueError, match=says):
        convert_state_dict(published(), size, 128)


def test_every_stage_is_compared_with_the_source_size():
    state = published()
    state['freq_embed.2'] = state['freq_embed.2'][:3]
    with pytest.raises(ValueError, match='freq_embed.2, which is 3 x 4, not 4 x 4; no image size'):
        convert_state_dict(state, 64, 128)


@pytest.mark.parametrize('size', [32, (128, 60), (32, 200)])
def test_pad_refuses_to_shrink(size):
    with pytest.raises(ValueError, match="freq_embed.0 from 64 x 64 to .*use 'bicubic'"):
        convert_state_dict(published(), 64, size, mode='pad')


def change(name, tensor):
    def apply(state):
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor

    return apply


@pytest.mark.parametrize(
    'break_it, says',
    [
        (change('freq_embed.1', None), r'stages \[0, 2, 3\], but layers of stages \[0, 1, 2, 3\]'),
        (change('freq_embed.4', torch.ones(1, 1, 8)), r'stages \[0, 1, 2, 3, 4\]'),
        (change('freq_embed.0', torch.ones(16, 16)), r'freq_embed.0 is \(16, 16\)'),
        (change('freq_embed.0', torch.ones(16, 16, 8).long()), 'torch.int64'),
        (change('freq_embed.0', torch.ones(16, 16, 9)), r'to_k.0.weight is \(8, 8\).*9 channels'),
        (change('layers.2.1.op.to_k.0.weight', torch.ones(32)), r'to_k.0.weight is \(32,\)'),
        (change('classifier.7.weight', torch.ones(1)), 'unknown layer classifier.7.weight'),
        (change('layers.0.0.op.k_exp', torch.ones(1)), 'already folded for inference'),
    ],
)
def test_inconsistent_models(break_it, says):
    state = published()
    break_it(state)
    with pytest.raises(ValueError, match=says):
        convert_state_dict(state, 64, 128)


@pytest.mark.parametrize(
    'arguments, error',
    [
        (dict(source_size=0, target_size=64), ValueError),
        (dict(source_size=64, target_size=-1), ValueError),
        (dict(source_size=64, target_size=5000), ValueError),
        (dict(source_size=64, target_size=(64, 64, 64)), TypeError),
        (dict(source_size=64, target_size=64.0), TypeError),
        (dict(source_size=True, target_size=64), TypeError),
        (dict(source_size='64', target_size=64), TypeError),
        (dict(source_size=64, target_size=128, mode='nearest'), ValueError),
        (dict(source_size=64, target_size=128, task='pose'), ValueError),
    ],
)
def test_bad_arguments(arguments, error):
    with pytest.raises(error, match='got '):
        convert_state_dict(published(), **arguments)


def test_sizes():
    assert as_size(7) == (7, 7) and as_size((3, 4)) == as_size([3, 4]) == (3, 4)


@pytest.mark.parametrize('kind', [kind for kind in every_kind() if 'folded' not in kind])
@pytest.mark.parametrize('name', MODELS)
def test_a_classifier_is_taken_out_of_any_model(name, kind):
    """mmpretrain's names and nothing else; a backbone's or a detector's norm is its own."""
    content, key, _, model = every_kind(name)[kind]
    state = classifier_state(find_state_dict(content, key).tensors)
    expected = mmpretrain(name)
    if model != 'classifier':
        norm = {f'outnorm3.{end}': backbone(name)[f'outnorm3.{end}'] for end in ('weight', 'bias')}
        expected |= {f'backbone.{key}': value for key, value in norm.items()}
        expected = {key: value for key, value in expected.items() if not key.startswith('head.')}
    assert_equal(state, expected)
    assert_equal(classifier_state(state), state)


def test_the_norm_of_a_published_classifier_goes_before_a_backbone_s():
    assert_equal(classifier_state(golden_state('tiny_like')), mmpretrain())
