import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmvheat.export import Metadata
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


def test_a_new_process_knows_the_operators_of_detectors(tmp_path: Path):
    pytest.importorskip('torchvision')

    class Suppress(torch.nn.Module):
        def forward(self, boxes):
            return torch.ops.torchvision.nms(boxes, boxes[:, 0], 0.5)

    told = Metadata(task='detection', outputs=('kept',), format='torchscript').to_json()
    traced = torch.jit.trace(Suppress(), torch.rand(3, 4))
    torch.jit.save(traced, tmp_path / 'a.torchscript', _extra_files={'mmvheat.json': told})
    code = 'from mmvheat.export import open_exported; open_exported("a.torchscript")'
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True)
