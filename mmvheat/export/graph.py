"""One graph by ``torch.export``, which the other formats are made from."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmvheat.errors import UserError

from .wrappers import ExportedModule

__all__ = ['SIZES', 'Shape', 'export_graph']

# Of a graph for any size. Below the smallest, a stage's map would have less than three columns; the
# largest bounds what torch has to prove.
SIZES = 64, 4096
_BATCH = 4096


@dataclass(frozen=True)
class Shape:
    """Which images a file takes.

    Attributes:
        size: Height and width; None for any from :data:`SIZES`.
        batch: Number of images; None for any.
        preprocess: Whether images are uint8 (N, H, W, 3), else float32 (N, 3, H, W).
    """

    size: tuple[int, int] | None
    batch: int | None
    preprocess: bool = False

    def example(self, size: tuple[int, int] | None = None, batch: int | None = None) -> Tensor:
        """Make images to trace with; open sizes differ, or torch would take them for one."""
        height, width = size or self.size or (96, 160)
        batch = batch or self.batch or 2
        if self.preprocess:
            return torch.zeros(batch, height, width, 3, dtype=torch.uint8)
        return torch.zeros(batch, 3, height, width)

    def dynamic(self) -> dict[int, Any] | None:
        """The open dimensions, as ``torch.export`` takes them; None if there are none."""
        dims = {}
        if self.batch is None:
            dims[0] = torch.export.Dim('batch', min=1, max=_BATCH)
        if self.size is None:
            low, high = SIZES
            first = 1 if self.preprocess else 2
            dims[first] = torch.export.Dim('height', min=low, max=high)
            dims[first + 1] = torch.export.Dim('width', min=low, max=high)
        return dims or None


def export_graph(module: ExportedModule, shape: Shape) -> torch.export.ExportedProgram:
    """Draw up the graph of a module.

    Args:
        module: What :func:`.wrappers.exportable` made.
        shape: Which images it is to take.

    Raises:
        UserError: If the model does not allow the sizes to be open.
    """
    example = shape.example()
    with torch.no_grad():
        if shape.size is not None:
            module(example)  # Fills the store of bases, which become constants of the graph.
        try:
            return torch.export.export(
                module, (example,), dynamic_shapes=(shape.dynamic(),), strict=False
            )
        except RuntimeError as error:
            if 'Constraints violated' not in str(error):  # Its class is not public.
                raise
            raise UserError(
                f'this {module.task} model cannot be exported for open sizes, for it computes with '
                'them in Python: give --size H W and --batch N'
            ) from error
