"""Write ONNX files, by torch's exporter for graphs of ``torch.export``."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mmvheat.extras import needs

from .metadata import KEY, Metadata

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ['DEFAULT_OPSET', 'OPSETS', 'make_onnx', 'write_onnx']

# The first that torch's exporter writes, and the last that it knows.
OPSETS = 18, 23
DEFAULT_OPSET = 20


def make_onnx(
    graph: torch.export.ExportedProgram,
    outputs: tuple[str, ...],
    opset: int,
    batch: int | None = None,
) -> 'ModelProto':
    """Turn a graph into an ONNX model, and simplify it.

    Args:
        graph: The graph, of :func:`.graph.export_graph`.
        outputs: Names of its outputs.
        opset: Version of the operators, within :data:`OPSETS`.
        batch: Number of images to fix, where the graph leaves it open.

    Raises:
        UserError: If onnx, onnxscript or onnxslim is missing.
    """
    needs('onnx', 'export'), needs('onnxscript', 'export')
    onnxslim = needs('onnxslim', 'export')
    program = torch.onnx.export(
        graph,
        (),
        dynamo=True,
        opset_version=opset,
        input_names=['image'],
        output_names=list(outputs),
        verbose=False,
    )
    model = program.model_proto
    if batch is not None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
    return onnxslim.slim(model)


def write_onnx(model: 'ModelProto', path: Path, metadata: Metadata) -> None:
    """Write a model with its metadata."""
    onnx = needs('onnx', 'export')
    model.producer_name = 'mmvheat'
    model.producer_version = metadata.versions.get('mmvheat', '')
    onnx.helper.set_model_props(model, {KEY: metadata.to_json()})
    onnx.save(model, path)
