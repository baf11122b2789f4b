"""Smaller and faster forms of an exported ONNX model: int8, and weights in bfloat16.

int8 is ONNX Runtime's static quantisation: the linear layers and convolutions compute with 8-bit
weights, a scale for each output channel, and 8-bit activations, whose ranges are found on
calibration images. Everything else stays float32. So do the cosine transforms of heat conduction:
their products have no weights, and int8 does not make them faster (docs/export.md has figures).
"""

import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from mmvheat.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import onnx

__all__ = ['quantize', 'with_bfloat16_weights']

_OPERATORS = ['MatMul', 'Gemm', 'Conv']
# They give float32 at once; to quantise their outputs, too, costs time and accuracy.
_FLOAT_OUTPUTS = ['MatMul', 'Gemm']
# A smaller weight saves nothing.
_SMALLEST = 256


class _Reader:
    """Gives the calibration its inputs, as ONNX Runtime's ``CalibrationDataReader`` does."""

    def __init__(self, inputs: Iterator[dict[str, 'np.ndarray']]) -> None:
        self._inputs = inputs

    def get_next(self) -> dict[str, 'np.ndarray'] | None:
        return next(self._inputs, None)


def quantize(source: Path, target: Path, images: Iterable['np.ndarray']) -> None:
    """Write the int8 form of a float32 ONNX model.

    Args:
        source: The float32 model, of one input.
        target: The file to write, in the QDQ format that ONNX Runtime, OpenVINO and TensorRT read.
            It has no metadata.
        images: Calibration inputs, each as the model takes it, say (1, 3, H, W). A few dozen from
            the training data do.

    Raises:
        UserError: If there are no images.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, 'prepared.onnx')
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared, load_external_data=False).graph
        name, feed = graph.input[0].name, iter(images)
        first = next(feed, None)
        if first is None:
            raise UserError('int8 finds the ranges of activations on images: there are none')
        reader = _Reader({name: image} for image in chain([first], feed))
        quantize_static(
            prepared,
            target,
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS,
            nodes_to_exclude=_without_weights(graph),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={'OpTypesToExcludeOutputQuantization': _FLOAT_OUTPUTS},
        )


def with_bfloat16_weights(model: 'onnx.ModelProto') -> 'onnx.ModelProto':
    """Store the weights of linear layers and convolutions as bfloat16.

    Runtimes widen them when they load the model, and compute in float32: ONNX Runtime has no
    convolution in bfloat16. Everything else, say the anchors of a detector, stays float32.

    Args:
        model: The float32 model; it is left as it is.
    """
    import ml_dtypes
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    casts = []
    layers = [node for node in copy.graph.node if node.op_type in (*_OPERATORS, 'ConvTranspose')]
    weights = {node.input[1] for node in layers}
    for weight in copy.graph.initializer:
        array = numpy_helper.to_array(weight)
        is_float = weight.data_type == TensorProto.FLOAT
        if weight.name not in weights or not is_float or array.size < _SMALLEST:
            continue
        name, stored = weight.name, f'{weight.name}_bfloat16'
        data = array.astype(ml_dtypes.bfloat16).tobytes()
        weight.CopyFrom(
            helper.make_tensor(stored, TensorProto.BFLOAT16, array.shape, data, raw=True)
        )
        casts.append(helper.make_node('Cast', [stored], [name], to=TensorProto.FLOAT))
    # They must come before their uses.
    nodes = [*casts, *copy.graph.node]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _without_weights(graph: 'onnx.GraphProto') -> list[str]:
    """Names of the matrix products whose second factor is no weight: the cosine transforms."""
    weights = {weight.name for weight in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type == 'MatMul' and node.input[1] not in weights
    ]
