"""Write an exported file, run it, and only then give it its name."""

import os
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mmvheat.checkpoint.io.writing import check_target
from mmvheat.errors import UserError
from mmvheat.extras import needs

from .graph import Shape, export_graph
from .metadata import FORMATS, HALF, Metadata
from .onnx import OPSETS, make_onnx, write_onnx
from .openvino import write_openvino
from .torch_formats import write_pt2, write_torchscript
from .verify import Check, report_failure, verify
from .wrappers import ExportedModule, exportable

if TYPE_CHECKING:
    import numpy as np

__all__ = ['check_request', 'choose_format', 'write_exported']

_NEEDS = {
    'onnx': ('onnx', 'onnxscript', 'onnxslim', 'onnxruntime'),
    'openvino': ('onnx', 'onnxscript', 'onnxslim', 'openvino'),
}


def choose_format(path: str, format: str | None) -> str:
    """Tell the format by the suffix of a file, if it is not given.

    Raises:
        UserError: If neither says which, or they contradict each other.
    """
    suffix = Path(path).suffix
    by_suffix = {suffix: name for name, suffix in FORMATS.items()}
    if format is None:
        if suffix not in by_suffix:
            known = ', '.join(by_suffix)
            raise UserError(
                f'{path}: the format cannot be told: end it with {known}, or give --format'
            )
        return by_suffix[suffix]
    if suffix != FORMATS[format]:
        raise UserError(f'{path}: files of {format} end with {FORMATS[format]}: name it so')
    return format


def check_request(
    path: str,
    format: str,
    any_size: bool,
    precision: str,
    opset: int | None = None,
    force: bool = False,
) -> Path:
    """Find out early what cannot be written, and write nothing.

    Args:
        path: The file to write.
        format: One of :data:`.metadata.FORMATS`.
        any_size: Whether it is to take images of any size.
        precision: What it is to compute in.
        opset: Version of ONNX's operators; None for the format's own choice.
        force: Whether to replace files.

    Returns:
        The path with its links resolved.

    Raises:
        UserError: If the file exists, a runtime is missing, or the format cannot do it.
    """
    target = check_target(path, force)
    if format == 'openvino':
        check_target(target.with_suffix('.bin'), force)
    if format == 'torchscript' and any_size:
        raise UserError('torchscript files are for one size: give --size H W, or another --format')
    if precision == 'int8' and format not in ('onnx', 'openvino'):
        raise UserError(f'--int8 is for onnx and openvino, not for {format}')
    if precision == 'bfloat16' and format == 'openvino':
        raise UserError('openvino has no bfloat16 files: give --half float16, or another --format')
    if opset is not None and format not in _NEEDS:
        raise UserError(f'--opset is for onnx and openvino, not for {format}: leave it out')
    low, high = OPSETS
    if opset is not None and not low <= opset <= high:
        raise UserError(f'opset {opset} cannot be written: give one of {low} to {high}')
    for module in _NEEDS.get(format, ()):
        needs(module, 'export')
    return target


def write_exported(
    module: ExportedModule,
    target: Path,
    shape: Shape,
    metadata: Metadata,
    sizes: list[tuple[int, int]],
    calibration: 'Iterable[np.ndarray]' = (),
) -> list[Check]:
    """Export a model, hold the file to it, and give the file its name.

    Args:
        module: The model.
        target: The file to write, of :func:`check_request`; what is there is replaced.
        shape: Which images it takes.
        metadata: What it says about itself: also its format, precision and opset.
        sizes: Sizes of images to compare at.
        calibration: Images as the file takes them, for int8.

    Returns:
        All comparisons. For int8 they are not judged.

    Raises:
        UserError: If the file does not compute what the model does. No file is left behind.
    """
    folder = target.with_name(f'.{uuid.uuid4().hex}')
    folder.mkdir()
    try:
        draft = folder / target.name
        _write(module, draft, shape, metadata, calibration)
        checks = verify(draft, module, shape, sizes)
        report_failure(checks, str(target))
        for path in sorted(folder.glob(f'{draft.stem}.*')):
            os.replace(path, target.with_name(path.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return checks


def _write(
    module: ExportedModule,
    path: Path,
    shape: Shape,
    metadata: Metadata,
    calibration: 'Iterable[np.ndarray]',
) -> None:
    by_torch = metadata.format in ('torch-export', 'torchscript')
    # OpenVINO makes its weights small itself.
    in_half = by_torch or (metadata.format, metadata.precision) == ('onnx', 'float16')
    half = in_half and metadata.precision in HALF
    dtype = getattr(torch, metadata.precision) if half else torch.float32
    module = exportable(module, shape.size, dtype)
    if by_torch:
        if metadata.format == 'torchscript':
            write_torchscript(module, shape, path, metadata)
        else:
            write_pt2(export_graph(module, shape), path, metadata)
        return
    # With a given batch torch.export cannot prove that maps of every size can be reshaped.
    drawn = replace(shape, batch=None) if shape.size is None else shape
    graph = export_graph(module, drawn)
    model = make_onnx(graph, module.output_names, metadata.opset, shape.batch)
    if metadata.precision == 'int8':
        model = _quantized(model, path.parent, metadata, calibration)
    elif (metadata.format, metadata.precision) == ('onnx', 'bfloat16'):
        from .quantize import with_bfloat16_weights

        model = with_bfloat16_weights(model)
    (write_onnx if metadata.format == 'onnx' else write_openvino)(model, path, metadata)


def _quantized(model, folder: Path, metadata: Metadata, calibration: 'Iterable[np.ndarray]'):
    """Quantise an ONNX model by way of files, as ONNX Runtime does it."""
    from .quantize import quantize

    onnx = needs('onnx', 'export')
    wide, small = folder / 'float32.int8', folder / 'quantized.int8'
    write_onnx(model, wide, replace(metadata, precision='float32'))
    quantize(wide, small, calibration)
    return onnx.load(small)
