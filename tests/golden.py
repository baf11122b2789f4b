"""The golden numbers in ``tests/data`` and the recipe that makes their weights and inputs."""

import json
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent / 'data'
INDEX = json.loads((DATA / 'index.json').read_text())
MODELS = tuple(INDEX)


def golden_tensor(seed: int, shape: tuple[int, ...]) -> Tensor:
    """A float32 tensor from NumPy's frozen legacy generator."""
    values = np.random.RandomState(seed).standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


def golden_weight(key: str, shape: tuple[int, ...]) -> Tensor:
    """The weight that the recipe gives a key of the state dict."""
    r = golden_tensor(crc32(key.encode()), tuple(shape))
    if key.endswith('.bias'):
        return 0.1 * r
    if 'gamma' in key:
        return 0.3 + 0.1 * r
    if 'freq_embed' in key:
        return 0.5 * r
    if r.dim() == 1:
        return 1 + 0.1 * r
    return r / r[0].numel() ** 0.5


def golden_state(name: str) -> dict[str, Tensor]:
    """The whole state dict of a golden model, published keys with the classifier's."""
    return {key: golden_weight(key, shape) for key, shape in INDEX[name]['shapes'].items()}


def golden_arch(name: str) -> dict:
    """The ``arch`` of a golden model."""
    kwargs = INDEX[name]['kwargs']
    return dict(
        depths=kwargs['depths'],
        dims=kwargs['dims'],
        post_norm=kwargs['post_norm'],
        layer_scale_init_value=kwargs.get('layer_scale'),
        mlp_ratio=kwargs.get('mlp_ratio', 4.0),
    )


def golden_npz(name: str) -> dict[str, np.ndarray]:
    """All arrays of a golden file."""
    with np.load(DATA / f'{name}.npz') as file:
        return dict(file)
