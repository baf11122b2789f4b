"""Valid checkpoints of every kind, which the fuzz test mutates."""

import io
import sys
import types
from collections import Counter, OrderedDict
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save as save_safetensors

from mmvheat.models import VHeat

__all__ = ['SIZE', 'bases', 'model', 'mmengine_checkpoint', 'odd_tensors', 'saved', 'valid_files']

SIZE = 64
ARCH = {'depths': (1, 1), 'dims': (2, 4)}


@cache
def _model() -> OrderedDict:
    torch.manual_seed(0)
    return VHeat(arch=ARCH, img_size=SIZE, out_indices=(1,)).state_dict()


def model(prefix: str = '') -> OrderedDict:
    """The state dict of a very small backbone, with random weights."""
    return OrderedDict((prefix + name, tensor.clone()) for name, tensor in _model().items())


@contextmanager
def yacs():
    """Make the class that published checkpoints pickle, as if yacs were there."""

    class CfgNode(dict):
        pass

    CfgNode.__module__, CfgNode.__qualname__ = 'yacs.config', 'CfgNode'
    module = types.ModuleType('yacs.config')
    module.CfgNode = CfgNode
    before = {name: sys.modules.get(name) for name in ('yacs', 'yacs.config')}
    sys.modules.update({'yacs': types.ModuleType('yacs'), 'yacs.config': module})
    try:
        yield CfgNode
    finally:
        for name, old in before.items():
            sys.modules.pop(name)
            if old is not None:
                sys.modules[name] = old


def history(length: int) -> HistoryBuffer:
    buffer = HistoryBuffer()
    for step in range(length):
        buffer.update(float(step), 1)
    return buffer


def mmengine_checkpoint(steps: int = 5) -> dict:
    """What a Runner saves: weights, message hub, optimizer, schedulers, metadata."""
    state = model('backbone.')
    momenta = {i: {'momentum_buffer': tensor * 0} for i, tensor in enumerate(state.values())}
    group = {'lr': 0.1, 'nesterov': False, 'foreach': None, 'params': list(momenta)}
    return {
        'meta': {
            'epoch': 3,
            'iter': 300,
            'cfg': 'model = dict()\n',
            'dataset_meta': {'classes': ('a', 'b'), 'palette': [[0, 0, 0], [255, 1, 2]]},
            'seed': 7,
            'time': '20260101_000000',
        },
        'state_dict': state,
        'message_hub': {
            'log_scalars': OrderedDict(loss=history(steps), lr=history(2)),
            'runtime_info': OrderedDict(iter=300, best=np.float64(0.5), n=np.int64(3)),
            'resumed_keys': OrderedDict(loss=True),
        },
        'optimizer': {'state': momenta, 'param_groups': [group]},
        'param_schedulers': [{'milestones': Counter({8: 1, 11: 2}), 'last_step': 3}],
    }


def published_checkpoint() -> dict:
    """What the published code saves; inside `yacs()` with its config."""
    state = model()
    return {
        'model': state,
        'model_ema': OrderedDict((name, tensor + 1) for name, tensor in state.items()),
        'optimizer': {'state': {}, 'param_groups': []},
        'epoch': 299,
        'max_accuracy': 82.2,
    }


def odd_tensors() -> dict:
    """Tensors of all dtypes and layouts in memory that dense ones have."""
    plain = torch.arange(12.0).reshape(3, 4)
    tied = torch.ones(5)
    named = torch.nn.Parameter(torch.ones(2))
    named.no_decay = True
    dtypes = ['float16', 'bfloat16', 'float64', 'int8', 'uint8', 'int16', 'int32', 'int64', 'bool']
    dtypes += ['complex64', 'complex128', 'float8_e4m3fn', 'float8_e5m2', 'uint16', 'uint32']
    tensors = {name: torch.ones(3).to(getattr(torch, name)) for name in dtypes}
    return tensors | {
        'scalar': torch.tensor(7),
        'empty': torch.empty(0, 3),
        'transposed': plain.t(),
        'slice': plain[1:, ::2],
        'row': plain[0],
        'expanded': torch.ones(1, 3).expand(4, 3),
        'tied': tied,
        'tied too': tied,
        'conjugate': torch.ones(2, dtype=torch.complex64).conj(),
        'parameter': torch.nn.Parameter(torch.ones(2)),
        'frozen': torch.nn.Parameter(torch.ones(2), requires_grad=False),
        'named': named,
        'gradient': torch.ones(2, requires_grad=True),
    }


def plain_values() -> dict:
    """Values that are no tensors but stand in checkpoints."""
    return {
        'meta': None,
        'numbers': [0, 1, 255, 256, 65536, -1, 2**31, -(2**40), 10**30, 0.5, float('nan')],
        'texts': ['', 'é', '\u4e00' * 40, '\U0001f525', 'a' * 9000, '\n'],
        'others': (None, True, False, 1 + 2j, {1, 2}, bytearray(b'ab'), b'\x00\xff', ()),
        'torch': [torch.Size([1, 2]), torch.float16, torch.device('cuda', 1), torch.strided],
        3: {(1, 'a'): [], None: {}, 2.5: [[[]]]},
    }


def saved(checkpoint: object, legacy: bool = False) -> bytes:
    """The bytes that torch.save writes."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@cache
def bases() -> dict[str, bytes]:
    """Files that convert and fold, of each format, under the suffix they have."""
    with yacs() as node:
        config = node(MODEL=node(NAME='vheat', SIZES=[1, 2]))
        config.__dict__['__immutable__'] = True
        published = published_checkpoint() | {'config': config}
        files = {'published.pth': saved(published), 'published-old.pth': saved(published, True)}
    return files | {
        'mmengine.pth': saved(mmengine_checkpoint()),
        'mmengine-old.pth': saved(mmengine_checkpoint(), legacy=True),
        'bare.pth': saved(_model()),
        'bare.safetensors': save_safetensors(model('backbone.'), {'format': 'pt', 'epoch': '3'}),
    }


@cache
def valid_files() -> dict[str, bytes]:
    """All that must load, convertible or not."""
    files = dict(bases())
    for name, content in {
        'odd tensors': odd_tensors(),
        'plain values': plain_values(),
        'nothing': {},
        'history': mmengine_checkpoint(steps=3000)['message_hub'],
        'module': {'model': torch.nn.Linear(2, 2).state_dict()},
    }.items():
        files[f'{name}.pth'] = saved(content)
        # torch has no legacy form for its newest dtypes.
        new = ('uint16', 'uint32', 'float8_e4m3fn', 'float8_e5m2')
        old = {name: value for name, value in content.items() if name not in new}
        files[f'{name}-old.pth'] = saved(old, legacy=True)
    on_gpu = saved({'model': model()}, legacy=True)
    files['cuda-old.pth'] = on_gpu.replace(b'X\x03\x00\x00\x00cpu', b'X\x06\x00\x00\x00cuda:3')
    assert files['cuda-old.pth'] != on_gpu
    dense = {name: t for name, t in odd_tensors().items() if t.dtype != torch.complex128}
    files['odd.safetensors'] = save_safetensors(
        {
            name: tensor.detach().resolve_conj().clone(memory_format=torch.contiguous_format)
            for name, tensor in dense.items()
        }
    )
    files['empty.safetensors'] = save_safetensors({})
    options = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    files['without checksums.pth'] = saved({'model': model()})
    torch.serialization.set_crc32_options(options)
    return files
