"""Trained models as modules that take an image and return tensors alone."""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvheat.errors import UserError
from mmvheat.models import VHeat

from .rows import use_rows

__all__ = [
    'ExportedClassifier',
    'ExportedDetector',
    'ExportedFeatures',
    'ExportedModule',
    'ExportedSegmentor',
    'Input',
    'exportable',
]


class Input(nn.Module):
    """Takes images as an exported file gets them to what the model was trained with.

    Args:
        mean: What is subtracted from r, g, b.
        std: What they are then divided by.
        preprocess: Whether to do so; else the images come as float32 (N, 3, H, W), normalised.
        bgr: Whether the model was trained with the channels b, g, r.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], preprocess: bool, bgr: bool
    ) -> None:
        super().__init__()
        self.preprocess, self.bgr = preprocess, bgr
        # A graph holds it as one node, where flip() makes ten.
        self.register_buffer('reversed', torch.tensor([2, 1, 0]))
        self.register_buffer('mean', torch.tensor(mean).view(3, 1, 1))
        self.register_buffer('std', torch.tensor(std).view(3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Map images to (N, 3, H, W), in the model's order of channels."""
        if self.preprocess:
            image = (image.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return image.index_select(1, self.reversed) if self.bgr else image


class ExportedModule(nn.Module):
    """A model of a task behind its :class:`Input`.

    Args:
        input: What stands before the model.
        model: The built model of a library, in eval mode.

    Attributes:
        task: Name of the task.
        output_names: Names of what ``forward`` returns.
        dtype: What the model computes in. Images are normalised in float32, and so are the outputs.
    """

    task = 'features'
    output_names: tuple[str, ...] = ()

    def __init__(self, input: Input, model: nn.Module) -> None:
        super().__init__()
        self.input = input
        self.model = model
        self.dtype = torch.float32

    def prepare(self, image: Tensor) -> Tensor:
        """Take images to what the model computes with."""
        return self.input(image).to(self.dtype)


class ExportedClassifier(ExportedModule):
    """Image in, ``scores`` (N, classes) out, as the library's ``predict`` gives them."""

    task = 'classification'
    output_names = ('scores',)

    def forward(self, image: Tensor) -> Tensor:
        """Classify images (N, 3, H, W), or (N, H, W, 3) with preprocessing."""
        logits = self.model(self.prepare(image)).float()
        if hasattr(
            self.model.head, 'thr'
        ):  # Several labels an image: mmpretrain's multi-label heads.
            return logits.sigmoid()
        return logits.softmax(1)


class ExportedSegmentor(ExportedModule):
    """Image in, ``logits`` (N, classes, H, W) or ``labels`` (N, H, W) out; no sliding window.

    Args:
        input: What stands before the model.
        model: An encoder and decoder of mmseg.
        label_map: Whether to return labels.
    """

    task = 'segmentation'

    def __init__(self, input: Input, model: nn.Module, label_map: bool = False) -> None:
        super().__init__(input, model)
        self.label_map = label_map
        self.output_names = ('labels',) if label_map else ('logits',)

    def forward(self, image: Tensor) -> Tensor:
        """Segment images (N, 3, H, W), or (N, H, W, 3) with preprocessing."""
        head = self.model.decode_head
        image = self.prepare(image)
        logits = head(self.model.extract_feat(image)).float()
        align = head.align_corners
        logits = F.interpolate(logits, image.shape[2:], mode='bilinear', align_corners=align)
        return self.labels(logits) if self.label_map else logits

    def labels(self, logits: Tensor) -> Tensor:
        """Choose the class of each pixel: (N, classes, H, W) to (N, H, W), int64."""
        if logits.size(1) == 1:
            return (logits[:, 0].sigmoid() > self.model.decode_head.threshold).long()
        return logits.argmax(1)


class ExportedDetector(ExportedModule):
    """Image in, ``boxes``, ``scores``, ``labels`` and perhaps ``masks`` out.

    Args:
        input: What stands before the model.
        model: What :func:`.detection.exportable_detector` made.
    """

    task = 'detection'

    def __init__(self, input: Input, model: nn.Module) -> None:
        super().__init__(input, model)
        self.output_names = tuple(model.output_names)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect in images (N, 3, H, W), or (N, H, W, 3) with preprocessing."""
        return self.model(self.prepare(image))


class ExportedFeatures(ExportedModule):
    """Image in, the maps ``p0``, ``p1``, ... of backbone and neck out.

    Args:
        input: What stands before the model.
        model: A model with ``extract_feat``.
        count: Number of maps.
    """

    def __init__(self, input: Input, model: nn.Module, count: int) -> None:
        super().__init__(input, model)
        self.output_names = tuple(f'p{i}' for i in range(count))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, 3, H, W), or (N, H, W, 3) with preprocessing."""
        return tuple(one.float() for one in self.model.extract_feat(self.prepare(image)))


def exportable(
    module: ExportedModule, size: tuple[int, int] | None, dtype: torch.dtype = torch.float32
) -> ExportedModule:
    """Copy a module into the form that is exported.

    Args:
        module: The module; it is left as it is.
        size: Height and width of the images, for which the decays are folded; None for any.
        dtype: What it is to compute in.

    Raises:
        UserError: If the backbone is folded for another size.
    """
    module = copy.deepcopy(module).eval().requires_grad_(False)
    for backbone in [part for part in module.modules() if isinstance(part, VHeat)]:
        if backbone.folded_for is None:
            if size is not None and backbone.arch.has_decays:
                backbone.fold(size)
        elif size != backbone.folded_for:
            height, width = backbone.folded_for
            wanted = 'any size' if size is None else f'{size[0]} x {size[1]}'
            raise UserError(
                f'the checkpoint is folded for images of {height} x {width}, not for {wanted}: '
                f'give --size {height} {width}, or the checkpoint it was folded from'
            )
        if size is not None:
            use_rows(backbone, size)
    _replace(module)
    module.model.to(dtype)
    module.dtype = dtype
    return module


def _replace(module: nn.Module) -> None:
    """Replace what depends on sizes in Python by what a graph can hold."""
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1)):
            setattr(module, name, _MeanOfCells(child.output_size))
        elif type(child).__name__ == 'Upsample' and isinstance(
            getattr(child, 'scale_factor', None), float
        ):
            setattr(module, name, _Enlarge(child))
        else:
            _replace(child)


class _MeanOfCells(nn.Module):
    """:class:`torch.nn.AdaptiveAvgPool2d` as two matrix products, for maps of any size."""

    def __init__(self, output_size: int | tuple[int, int]) -> None:
        super().__init__()
        both = output_size if isinstance(output_size, tuple) else (output_size, output_size)
        self.height, self.width = both

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, height, width)."""
        rows, columns = (
            self._cells(x.size(2), self.height, x),
            self._cells(x.size(3), self.width, x),
        )
        return rows @ x @ columns.T

    @staticmethod
    def _cells(length: int, count: int, like: Tensor) -> Tensor:
        """Weights (count, length): cell i is the mean of floor(i L / n) to ceil((i + 1) L / n)."""
        place = torch.arange(length, device=like.device)
        all = place[-1:] + 1
        cell = torch.arange(count, device=like.device)[:, None]
        inside = (place >= cell * all // count) & (place < ((cell + 1) * all + count - 1) // count)
        weights = inside.to(like.dtype)
        return weights / weights.sum(1, keepdim=True)


class _Enlarge(nn.Module):
    """mmseg's ``Upsample`` by a factor, with the size as a whole number of times the map's."""

    def __init__(self, upsample: nn.Module) -> None:
        super().__init__()
        factor = upsample.scale_factor
        if factor != int(factor):
            raise UserError(f'an Upsample by {factor:g} cannot be exported: only whole factors can')
        self.factor = int(factor)
        self.options = dict(mode=upsample.mode, align_corners=upsample.align_corners)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, factor H, factor W)."""
        size = self.factor * x.size(2), self.factor * x.size(3)
        return F.interpolate(x, size, **self.options)
