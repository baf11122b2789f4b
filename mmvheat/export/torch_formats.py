"""Write the formats that torch itself runs: graphs of ``torch.export``, and TorchScript."""

import warnings
from pathlib import Path

import torch

from .graph import Shape
from .metadata import KEY, Metadata
from .wrappers import ExportedModule

__all__ = ['write_pt2', 'write_torchscript']


def write_pt2(graph: torch.export.ExportedProgram, path: Path, metadata: Metadata) -> None:
    """Write a graph of ``torch.export``."""
    torch.export.save(graph, path, extra_files={f'{KEY}.json': metadata.to_json()})


def write_torchscript(module: ExportedModule, shape: Shape, path: Path, metadata: Metadata) -> None:
    """Trace a module for one size of images, freeze it and write it."""
    with torch.no_grad(), warnings.catch_warnings():
        # That the trace is for one size, and that TorchScript is no longer developed.
        warnings.simplefilter('ignore')
        example = shape.example()
        module(example)
        script = torch.jit.freeze(torch.jit.trace(module, example, check_trace=False))
        torch.jit.save(script, path, _extra_files={f'{KEY}.json': metadata.to_json()})
