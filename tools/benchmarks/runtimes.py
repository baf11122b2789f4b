"""Exported forms of the models that are timed, called as the models are."""

import copy
import io
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from mmvheat.export.onnx import DEFAULT_OPSET, make_onnx
from mmvheat.export.rows import use_rows
from mmvheat.export.runtimes import compile_openvino
from mmvheat.extras import needs
from mmvheat.models import VHeat

# What writes and simplifies the graphs.
_WRITERS = 'onnx', 'onnxscript', 'onnxslim'


def need_runtime(runtime: str) -> None:
    """Refuse a runtime that is not there.

    Raises:
        UserError: If it, or what writes its graphs, is not installed.
    """
    for module in (*_WRITERS, runtime):
        needs(module, 'export')


class Graphs:
    """ONNX graphs of a model, one for each shape of images, for all runtimes.

    All sizes are fixed in them, and vHeat has its inference form: the fastest that a runtime gets.

    Args:
        model: The model, on the CPU.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._made: dict[torch.Size, bytes] = {}

    def graph(self, images: Tensor) -> bytes:
        """Write the graph for images of this shape."""
        if images.shape not in self._made:
            self._made[images.shape] = _export(self._model, images)
        return self._made[images.shape]


class Exported(nn.Module):
    """A model as ONNX Runtime or OpenVINO runs it.

    Args:
        graphs: Its graphs.
        runtime: ``'onnxruntime'`` or ``'openvino'``.
        dtype: What OpenVINO computes in.
    """

    def __init__(self, graphs: Graphs, runtime: str, dtype: torch.dtype) -> None:
        super().__init__()
        self._graphs = graphs
        self._runtime = runtime
        self._dtype = dtype
        self._runs: dict[torch.Size, Callable[[np.ndarray], list[np.ndarray]]] = {}

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) to the outputs of the model; the first call of a shape exports."""
        run = self._runs.get(images.shape)
        if run is None:
            graph = self._graphs.graph(images)
            if self._runtime == 'onnxruntime':
                run = _open_onnxruntime(graph)
            else:
                run = _open_openvino(graph, self._dtype)
            self._runs[images.shape] = run
        return [torch.from_numpy(output) for output in run(images.contiguous().numpy())]


def _export(model: nn.Module, images: Tensor) -> bytes:
    """Write a model for images of one shape as ONNX."""
    model = copy.deepcopy(model).eval()
    for module in [part for part in model.modules() if isinstance(part, VHeat)]:
        if module.folded_for is None:
            module.fold(images.shape[2:])
        use_rows(module, tuple(images.shape[2:]))
    images = images.contiguous()
    with torch.no_grad(), torch.autocast('cpu', enabled=False), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        outputs = model(images)  # Constants that the model keeps are made before it is traced.
        count = 1 if isinstance(outputs, Tensor) else len(outputs)
        program = torch.export.export(model, (images,), strict=False)
        proto = make_onnx(program, tuple(f'output{i}' for i in range(count)), DEFAULT_OPSET)
    file = io.BytesIO()
    needs('onnx', 'export').save(proto, file)
    return file.getvalue()


def _open_onnxruntime(graph: bytes) -> Callable[[np.ndarray], list[np.ndarray]]:
    runtime = needs('onnxruntime', 'export')
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    # Its threads would go on spinning while the next candidate is timed.
    options.add_session_config_entry('session.force_spinning_stop', '1')
    session = runtime.InferenceSession(graph, options, providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})


def _open_openvino(graph: bytes, dtype: torch.dtype) -> Callable[[np.ndarray], list[np.ndarray]]:
    config = {
        'INFERENCE_PRECISION_HINT': 'bf16' if dtype == torch.bfloat16 else 'f32',
        'INFERENCE_NUM_THREADS': torch.get_num_threads(),
        'PERFORMANCE_HINT': 'LATENCY',
    }
    core = needs('openvino', 'export').Core()
    compiled = compile_openvino(core, core.read_model(graph), config)

    def run(images: np.ndarray) -> list[np.ndarray]:
        found = compiled(images)
        return [found[i] for i in range(len(compiled.outputs))]

    return run
