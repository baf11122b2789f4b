import ctypes

import numpy as np
import pytest

from mmvheat.export.runtimes import _SignalStack, compile_openvino


def test_signals_keep_their_stack_when_openvino_compiles():
    """It leaves the thread a stack that it later frees: then a signal ends the process."""
    openvino = pytest.importorskip('openvino')
    image = openvino.opset13.parameter([1, 2])
    core, model = openvino.Core(), openvino.Model([openvino.opset13.relu(image)], [image])
    before, after = _SignalStack(), _SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(before))
    compiled = compile_openvino(core, model, {})
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(after))
    assert compiled(np.float32([[-1, 2]]))[0].tolist() == [[0.0, 2.0]]
    assert (after.memory, after.flags) == (before.memory, before.flags)
