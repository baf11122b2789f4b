"""A checkpoint is recognised by its names and shapes, whoever wrote it."""

import json
from dataclasses import asdict

import pytest
import torch
from checkpoint_kinds import CLASSES, backbone, every_kind, mmengine, published
from golden import MODELS, golden_arch

from mmvheat.checkpoint import (
    convert_state_dict,
    describe_checkpoint,
    fold_state_dict,
    read_checkpoint,
)
from mmvheat.errors import UserError
from mmvheat.models.arch import resolve_arch

KINDS = tuple(every_kind())


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', MODELS)
def test_every_kind_is_recognised(name, kind):
    checkpoint, key, origin, model = every_kind(name)[kind]
    found = describe_checkpoint(checkpoint, key)
    assert (found.origin, found.kind, found.problem) == (origin, model, '')
    assert found.num_classes == (None if model == 'backbone' else 10)
    assert found.wrappers == (kind in ('DDP', 'compiled', 'mmengine average'))
    arch, seen = resolve_arch(golden_arch(name)), found.backbone
    assert (seen.depths, seen.dims) == (arch.depths, arch.dims)
    assert set(seen.mlp_ratios) == {arch.mlp_ratio}
    assert seen.layer_scale == (arch.layer_scale_init_value is not None)
    assert (seen.missing, seen.misshaped, seen.unknown) == ((), {}, ())
    assert (seen.heights, seen.widths, seen.in_channels) == ((61, 64), (61, 64), 3)
    assert seen.folded == ('folded' in kind)
    json.dumps(asdict(found))


def test_what_is_recorded():
    found = describe_checkpoint(mmengine(published()))
    assert found.progress == {'epoch': 12, 'iter': 345}
    assert found.class_names == CLASSES and found.resumable
    assert found.entries['state_dict'] == f'{len(published())} tensors'
    assert describe_checkpoint({'model': published(), 'epoch': 299}).progress == {'epoch': 299}


def test_counts():
    checkpoint = every_kind()['detector'][0]
    state = checkpoint['state_dict']
    found = describe_checkpoint(checkpoint)
    statistics = ('running_mean', 'num_batches_tracked')
    numbers = sum(v.numel() for k, v in state.items() if not k.endswith(statistics))
    assert found.parameters == numbers
    assert found.dtypes == {'float32': len(state) - 1, 'int64': 1}


@pytest.mark.parametrize(
    'size, heights, widths',
    [
        ((64, 64), (61, 64), (61, 64)),
        ((224, 96), (221, 224), (93, 96)),
        ((33, 1), (33, 36), (1, 4)),
    ],
)
@pytest.mark.parametrize('folded', [False, True])
def test_sizes_that_give_the_same_maps(size, heights, widths, folded):
    state, _ = convert_state_dict(backbone(), 64, size)
    if folded:
        state = fold_state_dict(state, size)
    found = describe_checkpoint(state).backbone
    assert (found.heights, found.widths) == (heights, widths)
    assert found.image_size == (heights[1], widths[1])


def test_embeddings_of_no_size():
    state = published()
    state['freq_embed.2'] = torch.ones(9, 4, 32)
    found = describe_checkpoint(state).backbone
    assert found.heights is None and found.widths == (61, 64) and found.image_size is None


@pytest.mark.parametrize('name', sorted(backbone()))
def test_what_lacks_is_told(name):
    """Whichever tensor goes: it is named, or the model can no longer be told."""
    state = backbone()
    del state[name]
    found = describe_checkpoint({'state_dict': state})
    if name.startswith('outnorm'):
        assert found.backbone.missing == ()
    elif found.backbone is None:
        assert 'incomplete' in found.problem
        assert name.startswith(('freq_embed.', 'patch_embed.conv1.weight')) or '.0.mlp.fc1' in name
    else:
        assert found.backbone.missing == (name,)


def test_what_is_too_much_or_of_another_shape_is_told():
    state = published()
    state['layers.0.0.extra'] = torch.ones(1)
    state['layers.2.1.mlp.fc2.bias'] = torch.ones(3)
    found = describe_checkpoint(state).backbone
    assert found.unknown == ('layers.0.0.extra',)
    assert found.misshaped == {'layers.2.1.mlp.fc2.bias': ((3,), (32,))}


@pytest.mark.parametrize('name', ['layers.0.0.op.', 'layers.2.0.op.', 'layers.1.'])
def test_missing_blocks_and_stages(name):
    state = {k: v for k, v in published().items() if not k.startswith(name)}
    found = describe_checkpoint(state)
    assert found.backbone is None and 'incomplete' in found.problem


def test_other_models_are_described_all_the_same():
    found = describe_checkpoint(
        {'state_dict': {'conv1.weight': torch.ones(2, 3, dtype=torch.half)}}
    )
    assert found.backbone is None and 'another model than vHeat' in found.problem
    assert (found.parameters, found.dtypes) == (6, {'float16': 1})
    assert (
        describe_checkpoint({f'{i}.{k}': v for i in 'ab' for k, v in published().items()}).backbone
        is None
    )


@pytest.mark.parametrize('meta', [None, [1], 'text', 3, {'dataset_meta': 5}, {'epoch': 'x'}])
def test_odd_metadata(meta):
    found = describe_checkpoint({'state_dict': published(), 'meta': meta, 'epoch': [1]})
    assert (found.class_names, found.progress) == ((), {})
    assert found.backbone is not None


def test_entries_of_any_kind():
    odd = {10**5000: 10**5000, ('a', 10**5000): None, None: 1.5, 'epoch': 10**5000, 'b' * 999: b'x'}
    found = describe_checkpoint({'model': {**published(), 10**5000: 3}, **odd})
    assert found.backbone is not None and found.progress == {}
    assert all(len(name) < 99 and len(text) < 99 for name, text in found.entries.items())
    json.dumps(asdict(found))


@pytest.mark.parametrize('checkpoint', [{}, {'epoch': 3}, {'a': {'b': {'c': torch.ones(1)}}}])
def test_no_state_dict(checkpoint):
    with pytest.raises(UserError, match='no state dict'):
        describe_checkpoint(checkpoint)


def test_a_mapped_file_is_described_as_one_that_is_read(tmp_path):
    torch.save(every_kind()['published'][0], tmp_path / 'a.pth')
    read, mapped = (read_checkpoint(tmp_path / 'a.pth', mmap=mmap) for mmap in (False, True))
    assert describe_checkpoint(mapped) == describe_checkpoint(read)
