"""Models as files of other runtimes: ONNX, OpenVINO, ``torch.export`` and TorchScript.

Nothing here imports a task library: a built model is known by its attributes. A runtime is imported
where it is used.
"""

from .metadata import Metadata
from .runtimes import open_exported
from .wrappers import exportable

__all__ = ['Metadata', 'exportable', 'open_exported']
