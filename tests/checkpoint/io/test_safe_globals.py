import pickle
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmvheat.checkpoint import read_checkpoint
from mmvheat.checkpoint.io import safe_globals


@pytest.fixture
def empty_list():
    """Start from torch's own list, whatever was imported before, and give it back."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


def stand_in():
    return {entry[1]: entry[0] for entry in safe_globals() if isinstance(entry, tuple)}[
        'builtins.getattr'
    ]


def history(values):
    buffer = HistoryBuffer()
    for value in values:
        buffer.update(value)
    return buffer


def test_history_of_a_runner_loads(tmp_path, empty_list):
    path = tmp_path / 'epoch_1.pth'
    hub = {'log_scalars': OrderedDict(loss=history([3.0, 1.5])), 'lr': np.float64(0.1)}
    torch.save({'state_dict': {'w': torch.ones(2)}, 'message_hub': hub}, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)

    loaded = read_checkpoint(path)['message_hub']

    assert loaded['lr'] == 0.1
    assert loaded['log_scalars']['loss'].data[0].tolist() == [3.0, 1.5]
    assert loaded['log_scalars']['loss'].statistics('mean') == 2.25


@pytest.mark.parametrize('dtype', ['float32', 'float64', 'int32', 'int64'])
def test_arrays_load_under_both_names_of_numpy(tmp_path, empty_list, dtype):
    array = np.arange(6, dtype=dtype).reshape(2, 3)
    for name in ('core', '_core'):
        data = pickle.dumps({'array': array, 'scalar': array[1, 2]}, protocol=2)
        data = data.replace(b'numpy._core.', b'numpy.%s.' % name.encode())
        path = tmp_path / f'{name}.pth'
        # A legacy file is a row of pickles: magic number, version, system, object, storages.
        head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
        path.write_bytes(head + data + pickle.dumps([], 2))
        loaded = read_checkpoint(path)
        np.testing.assert_array_equal(loaded['array'], array)
        assert loaded['array'].dtype == dtype and loaded['scalar'] == 5


def test_published_config_loads_without_yacs(tmp_path, monkeypatch):
    module = types.ModuleType('yacs.config')

    class CfgNode(dict):
        pass

    CfgNode.__module__, CfgNode.__qualname__ = 'yacs.config', 'CfgNode'
    module.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
    monkeypatch.setitem(sys.modules, 'yacs.config', module)
    node = CfgNode(MODEL=CfgNode(NAME='vheat'))
    node.__dict__['__immutable__'] = True
    torch.save({'model': {'w': torch.ones(1)}, 'config': node}, tmp_path / 'ckpt.pth')
    monkeypatch.undo()
    assert 'yacs.config' not in sys.modules

    config = read_checkpoint(tmp_path / 'ckpt.pth')['config']

    assert config == {'MODEL': {'NAME': 'vheat'}} and type(config) is OrderedDict


@pytest.mark.parametrize('name', ['min', 'max', 'mean', 'current'])
def test_stand_in_serves_the_statistics(name):
    assert stand_in()(HistoryBuffer, name) is getattr(HistoryBuffer, name)


@pytest.mark.parametrize(
    'owner, name',
    [
        (HistoryBuffer, 'statistics'),
        (HistoryBuffer, 'register_statistics'),
        (HistoryBuffer, '__init__'),
        (HistoryBuffer, '__class__'),
        (HistoryBuffer(), 'mean'),
        (type('Sub', (HistoryBuffer,), {}), 'mean'),
        (torch.Tensor, 'mean'),
        (np, 'load'),
        ('text', 'format'),
    ],
)
def test_stand_in_refuses_all_else(owner, name):
    with pytest.raises(ValueError, match='not allowed in a checkpoint'):
        stand_in()(owner, name)


def test_list_is_exact():
    named = {
        entry[1] if isinstance(entry, tuple) else f'{entry.__module__}.{entry.__qualname__}'
        for entry in safe_globals()
    }
    # NumPy 1 before 1.25 has these classes without a module of their own; no file names them.
    dtypes = {
        f'{kind.__module__}.{kind.__qualname__}'
        for kind in (type(np.dtype(name)) for name in ('float32', 'float64', 'int32', 'int64'))
    }
    assert dtypes == {
        f'numpy.dtypes.{name}DType' for name in ('Float32', 'Float64', 'Int32', 'Int64')
    } or np.__version__.startswith('1.2')
    assert named == dtypes | {
        'builtins.getattr',
        'mmengine.logging.history_buffer.HistoryBuffer',
        'numpy.core.multiarray._reconstruct',
        'numpy._core.multiarray._reconstruct',
        'numpy.core.multiarray.scalar',
        'numpy._core.multiarray.scalar',
        'numpy.ndarray',
        'numpy.dtype',
        'yacs.config.CfgNode',
    }


@pytest.mark.parametrize('already', [False, True])
def test_reading_leaves_the_process_wide_list_as_it_was(tmp_path, empty_list, already):
    if already:
        torch.serialization.add_safe_globals(safe_globals())
    before = set(torch.serialization.get_safe_globals())
    torch.save({'state_dict': {'w': torch.ones(1)}, 'log': history([1.0])}, tmp_path / 'a.pth')
    read_checkpoint(tmp_path / 'a.pth')
    assert set(torch.serialization.get_safe_globals()) == before
