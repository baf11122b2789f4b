"""Run an exported file of any format: numpy arrays in, numpy arrays out."""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mmvheat.errors import UserError
from mmvheat.extras import needs

from .metadata import FORMATS, KEY, Metadata

if TYPE_CHECKING:
    import numpy as np

__all__ = ['Exported', 'compile_openvino', 'open_exported']

_JSON = f'{KEY}.json'


class Exported:
    """An exported file, ready to run.

    Args:
        metadata: What the file says about itself.
        run: Takes the images, gives the outputs in the order of ``metadata.outputs``.
    """

    def __init__(self, metadata: Metadata, run: 'Callable[[np.ndarray], list[np.ndarray]]') -> None:
        self.metadata = metadata
        self._run = run

    def __call__(self, image: 'np.ndarray') -> 'dict[str, np.ndarray]':
        """Run the model on images.

        Args:
            image: float32 (N, 3, H, W), normalised, r, g, b; where ``metadata.preprocess`` is set
                uint8 (N, H, W, 3).

        Returns:
            The outputs by name.
        """
        return dict(zip(self.metadata.outputs, self._run(image), strict=True))


def open_exported(path: str | Path, threads: int | None = None) -> Exported:
    """Open a file of ``tools/export.py``, on the CPU.

    Args:
        path: The file, ``.onnx``, ``.pt2``, ``.xml`` or ``.torchscript``.
        threads: Threads that ONNX Runtime and OpenVINO use; None for their own choice.

    Raises:
        UserError: If the file cannot be read, or its runtime is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f'{path} does not exist or is no file: give a file of tools/export.py')
    openers = {'.onnx': _open_onnx, '.pt2': _open_pt2, '.xml': _open_openvino}
    openers['.torchscript'] = _open_torchscript
    opener = openers.get(path.suffix)
    if opener is None:
        known = ', '.join(FORMATS.values())
        raise UserError(f'{path} has an unknown suffix: expected one of {known}')
    return opener(path, threads)


def _open_onnx(path: Path, threads: int | None) -> Exported:
    runtime = needs('onnxruntime', 'export')
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = runtime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    except Exception as error:  # Its exceptions have no common class.
        raise _unreadable(path, error) from error
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    name = session.get_inputs()[0].name
    metadata = Metadata.from_json(text, str(path))
    return Exported(metadata, lambda image: session.run(list(metadata.outputs), {name: image}))


def _open_openvino(path: Path, threads: int | None) -> Exported:
    openvino = needs('openvino', 'export')
    # Else it computes in bfloat16 on CPUs that have it.
    config: dict[str, Any] = {'INFERENCE_PRECISION_HINT': 'f32'}
    if threads is not None:
        config['INFERENCE_NUM_THREADS'] = threads
    try:
        core = openvino.Core()
        model = core.read_model(path)
        text = model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else None
        metadata = Metadata.from_json(text, str(path))
        compiled = compile_openvino(core, model, config)
    except RuntimeError as error:
        raise _unreadable(path, error) from error

    def run(image: 'np.ndarray') -> 'list[np.ndarray]':
        found = compiled(image)
        return [found[name].copy() for name in metadata.outputs]

    return Exported(metadata, run)


class _SignalStack(ctypes.Structure):
    _fields_ = [('memory', ctypes.c_void_p), ('flags', ctypes.c_int), ('size', ctypes.c_size_t)]


def compile_openvino(core: Any, model: Any, config: dict[str, Any]) -> Any:
    """Compile a model for the CPU, and leave signals as they were.

    OpenVINO 2026.4 gives the calling thread a stack for signals and frees it with the model: after
    that SIGTERM ended the process with SIGSEGV.

    Args:
        core: ``openvino.Core``.
        model: What it read.
        config: Settings of the CPU.

    Returns:
        The compiled model.
    """
    sigaltstack, before = ctypes.CDLL(None).sigaltstack, _SignalStack()
    sigaltstack(None, ctypes.byref(before))
    try:
        return core.compile_model(model, 'CPU', config)
    finally:
        sigaltstack(ctypes.byref(before), None)


def _torch() -> ModuleType:
    """Import torch, and torchvision where it is, whose operators detectors need."""
    torch = needs('torch', 'export')
    with suppress(ImportError):
        import_module('torchvision')
    return torch


def _open_pt2(path: Path, threads: int | None) -> Exported:
    torch = _torch()
    extra = {_JSON: ''}
    try:
        program = torch.export.load(path, extra_files=extra)
    except Exception as error:
        raise _unreadable(path, error) from error
    text = extra[_JSON]
    metadata = Metadata.from_json(text, str(path))
    return Exported(metadata, _torch_runner(program.module()))


def _open_torchscript(path: Path, threads: int | None) -> Exported:
    torch = _torch()
    extra = {_JSON: ''}
    try:
        script = torch.jit.load(path, map_location='cpu', _extra_files=extra)
    except (RuntimeError, ValueError) as error:
        raise _unreadable(path, error) from error
    text = extra[_JSON]
    metadata = Metadata.from_json(text.decode() if isinstance(text, bytes) else text, str(path))
    return Exported(metadata, _torch_runner(script))


def _torch_runner(module: Any) -> 'Callable[[np.ndarray], list[np.ndarray]]':
    import torch

    def run(image: 'np.ndarray') -> 'list[np.ndarray]':
        with torch.inference_mode():
            outputs = module(torch.from_numpy(image))
        outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
        return [_as_numpy(one) for one in outputs]

    return run


def _as_numpy(tensor: Any) -> 'np.ndarray':
    """Numpy has no bfloat16."""
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _unreadable(path: Path, error: Exception) -> UserError:
    text = ' '.join(str(error).split())[:200]
    return UserError(f'{path} cannot be read ({type(error).__name__}: {text}): export it again')
