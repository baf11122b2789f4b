"""Whatever a state dict holds: it is converted, or a UserError says in one line why not."""

import random

import pytest
import torch
from checkpoint_kinds import (
    backbone,
    detector,
    folded_as_published,
    mmpretrain,
    published,
    variant,
    wrapped,
)

from mmvheat.checkpoint import (
    FORMS,
    as_mmengine_checkpoint,
    change_form,
    describe_checkpoint,
    find_state_dict,
    fold_state_dict,
    learn_diffusivity,
)
from mmvheat.errors import UserError
from mmvheat.ops import FREQ_EMBED_MODES

SOURCES = (
    published,
    mmpretrain,
    backbone,
    detector,
    folded_as_published,
    lambda: wrapped(published(), counter='steps'),
    lambda: variant(diffusivity='learned'),
    lambda: variant(diffusivity='fixed', k=1.0),
    lambda: variant(operator='global_filter'),
)
DTYPES = (
    torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float16, torch.bfloat16,
    torch.float64, torch.float8_e4m3fn,
)  # fmt: skip
NAMES = (
    '', '.', 'freq_embed.', 'freq_embed.01', 'freq_embed.\u0663', 'freq_embed.1\u0663',
    'freq_embed.²', 'freq_embed.9999', 'freq_embed.' + '9' * 5000, 'layers.0.0.op.',
    'layers.7.0.op.x', 'layers.0.' + '9' * 5000 + '.op.x', 'layers.0.0.op.k_exp',
    'layers.0.0.op.to_k.0.weight', 'layers.0.0.op.mixer.k', 'layers.0.9.op.mixer.global_filter',
    'a\nb', 'module', 'module.module', 'steps', 'classifier.',
    'classifier.0', 'classifier.9.weight', 'head', 'head.', 'backbone', 'backbone.',
    'backbone.freq_embed.0', 'x.layers.0.0.op.y', 'module.freq_embed.0', '_orig_mod.freq_embed.0',
    'x' * 10**5, '.'.join('ab' * 10**4),
)  # fmt: skip
VALUES = (None, 3, 'text', [1], {}, {'deeper': {'still': torch.ones(2)}}, (torch.ones(1),))


def odd_tensor(rng, tensor):
    """A tensor that is of another kind, dtype or shape."""
    shapes = [(), (0,), (1,), (0, 0, 0), (0, 4, 8), (4, 0, 8), (2, 2, 0), (3, 3, 3, 3), (1, 2, 8)]
    return rng.choice(
        [
            lambda: tensor.to(rng.choice(DTYPES)),
            lambda: torch.ones(rng.choice(shapes)),
            lambda: torch.ones(rng.choice(shapes), dtype=rng.choice(DTYPES[:7])),
            lambda: torch.full(tensor.shape, rng.choice([float('nan'), float('inf'), -1e38])),
            lambda: tensor.to('meta'),
            lambda: torch.ones(tensor.shape).to_sparse(),
            lambda: torch.quantize_per_tensor(torch.ones(tensor.shape), 1.0, 0, torch.qint8),
            lambda: torch.ones(1).expand(10**5, 10**5, 8),
            lambda: tensor.unsqueeze(-1),
            lambda: tensor.flatten()[:1].expand(3, *[1] * rng.randrange(4)),
            lambda: tensor.t() if tensor.dim() == 2 else tensor,
            lambda: torch.nn.Parameter(torch.ones(tensor.shape)),
        ]
    )()


def broken_state(seed):
    """A state dict with one to three things changed."""
    rng = random.Random(seed)
    state = dict(rng.choice(SOURCES)())
    if rng.random() < 0.2:
        dtype = rng.choice(DTYPES)
        state = {name: tensor.to(dtype) for name, tensor in state.items()}
    plain = dict(state)
    for _ in range(rng.randint(1, 3)):
        names = [name for name in plain if name in state]
        central = [
            name for name in names if any(part in name for part in ('freq_embed', 'to_k', 'mixer'))
        ]
        name = rng.choice(rng.choice([names, central or names]))
        change = rng.choice(['drop', 'tensor', 'tensor', 'name', 'value', 'key', 'prefix'])
        if change == 'drop':
            del state[name]
        elif change == 'tensor':
            state[name] = odd_tensor(rng, plain[name])
        elif change == 'name':
            state[rng.choice(NAMES)] = plain[name]
        elif change == 'value':
            state[name] = rng.choice(VALUES)
        elif change == 'key':
            state[rng.choice([0, None, b'x', 1.5, ('a', 1)])] = plain[name]
        else:
            state[f'module.{name}'] = state.pop(name)
    return state


def attempts(state, rng):
    """What to do with a state dict."""
    checkpoint = {'model': state}
    sizes = [(None, None), (96, None), ((40, 96), 64)]
    options = [(form, *rng.choice(sizes), rng.choice(FREQ_EMBED_MODES)) for form in FORMS]
    change = [
        lambda option=option: change_form(find_state_dict(checkpoint).tensors, *option)
        for option in options
    ]
    return [
        lambda: describe_checkpoint(checkpoint),
        lambda: as_mmengine_checkpoint(checkpoint),
        lambda: fold_state_dict(find_state_dict(checkpoint).tensors, (64, 33)),
        lambda: learn_diffusivity(find_state_dict(checkpoint).tensors),
        *change,
    ]


@pytest.mark.filterwarnings('ignore:.*[Qq]uantiz')
@pytest.mark.parametrize('share', range(6))
def test_broken_states(share):
    refused = 0
    for seed in range(25 * share, 25 * share + 25):
        for attempt in attempts(broken_state(seed), random.Random(seed)):
            try:
                attempt()
            except UserError as error:
                refused += 1
                text = str(error)
                assert text and '\n' not in text and len(text) < 600, (seed, text[:600])
            except Exception as error:
                raise AssertionError(f'seed {seed}') from error
    assert 0 < refused < 25 * 8
