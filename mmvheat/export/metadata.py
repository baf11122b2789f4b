"""What an exported file says about itself: one JSON text, whatever the format."""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mmvheat.errors import UserError

__all__ = ['FORMATS', 'HALF', 'KEY', 'Metadata']

# Where a file has the text: this key of ONNX's metadata_props and of OpenVINO's rt_info, a file of
# this name with .json in torch's.
KEY = 'mmvheat'
# Format: suffix of its files.
FORMATS = {
    'onnx': '.onnx',
    'torch-export': '.pt2',
    'openvino': '.xml',
    'torchscript': '.torchscript',
}
HALF = 'float16', 'bfloat16'


@dataclass(frozen=True)
class Metadata:
    """What a program needs to know to give an exported model images and to read its outputs.

    Attributes:
        task: ``'classification'``, ``'segmentation'``, ``'detection'`` or ``'features'``.
        outputs: Names of the outputs, in the order of the file.
        classes: Names of the classes; empty if they are not known.
        palette: A colour (r, g, b) for each class, if the checkpoint or its data set has them.
        mean: What is subtracted from the channels r, g, b of pixels from 0 to 255.
        std: What they are then divided by.
        preprocess: Whether the model does so itself and takes uint8 (N, H, W, 3). Else it takes
            float32 (N, 3, H, W), also in the order r, g, b.
        size: Height and width of the images, or ``'dynamic'``.
        smallest: Of a dynamic size, the smallest height and width.
        largest: Of a dynamic size, the largest height and width.
        divisor: What height and width must be multiples of; pad at the bottom and the right.
        batch: Number of images, or ``'dynamic'``.
        resize: How the test pipeline makes an image fit. ``size`` is (height, width). With
            ``keep_ratio`` it is (short, long) instead: the image is scaled so that neither its
            short nor its long side is longer, and null does not count. ``crop`` is the size of what
            is then cut out of the middle, or null. ``pad_value`` is what a divisor pads with,
            ``interpolation`` is ``'bilinear'`` or ``'bicubic'``, ``backend`` whose it is: ``'cv2'``
            or ``'pillow'``, which also averages where it makes an image smaller.
        mask_threshold: From which probability a pixel belongs to a mask.
        score_threshold: From which score a detection is drawn.
        precision: ``'float32'``, ``'float16'``, ``'bfloat16'`` or ``'int8'``.
        format: One of :data:`FORMATS`.
        opset: Version of ONNX's operators, in an ONNX or OpenVINO file.
        source: Name (``file``) and digest (``sha256``) of the checkpoint, name of the ``config``.
        versions: Versions of the packages that wrote the file.
    """

    task: str
    outputs: tuple[str, ...]
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, ...], ...] | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    preprocess: bool = False
    size: tuple[int, int] | str = 'dynamic'
    smallest: int | None = None
    largest: int | None = None
    divisor: int = 1
    batch: int | str = 1
    resize: dict[str, Any] = field(default_factory=dict)
    mask_threshold: float = 0.5
    score_threshold: float = 0.3
    precision: str = 'float32'
    format: str = 'onnx'
    opset: int | None = None
    source: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Write it as a JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | None, path: str) -> 'Metadata':
        """Read it back.

        Args:
            text: What a file holds under :data:`KEY`; None if there is nothing.
            path: The file, for messages.

        Raises:
            UserError: If that is no such object.
        """
        try:
            values = json.loads(text)
            known = {one.name for one in fields(cls)}
            values = {name: _tuples(value) for name, value in values.items() if name in known}
            return cls(**values)
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f'{path} has no metadata of tools/export.py: give a file that it wrote'
            ) from error


def _tuples(value: Any) -> Any:
    """Make lists tuples again, at any depth."""
    if isinstance(value, dict):
        return {name: _tuples(one) for name, one in value.items()}
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
