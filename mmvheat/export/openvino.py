"""Write OpenVINO files, by its importer of ONNX."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mmvheat.extras import needs

from .metadata import KEY, Metadata

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ['write_openvino']


def write_openvino(model: 'ModelProto', path: Path, metadata: Metadata) -> None:
    """Write ``path``, the graph, and the weights beside it with the suffix ``.bin``.

    Args:
        model: An ONNX model.
        path: The file to write, ``.xml``.
        metadata: What it says about itself; with a precision of float16 the weights are stored so.
    """
    openvino, onnx = needs('openvino', 'export'), needs('onnx', 'export')
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, 'model.onnx')
        onnx.save(model, source)
        converted = openvino.convert_model(source)
        converted.set_rt_info(metadata.to_json(), [KEY])
        half = metadata.precision == 'float16'
        openvino.save_model(converted, path, compress_to_fp16=half)
