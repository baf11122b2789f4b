"""From a trained model and its config to the module that is exported, and what is told about it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mmvheat.errors import UserError

from .wrappers import (
    ExportedClassifier,
    ExportedDetector,
    ExportedFeatures,
    ExportedModule,
    ExportedSegmentor,
    Input,
)

__all__ = ['InputFacts', 'exported_module', 'resize_facts']


class InputFacts:
    """What a library's preprocessor does to images.

    Args:
        preprocessor: ``data_preprocessor`` of a model of one of the three libraries.

    Attributes:
        mean: What it subtracts from r, g, b.
        std: What it then divides by.
        bgr: Whether the model gets the channels as b, g, r.
        divisor: What it pads height and width to multiples of.
        pad_value: With what.

    Raises:
        UserError: If it normalises what are not three channels.
    """

    def __init__(self, preprocessor: nn.Module) -> None:
        names = '_channel_conversion', 'channel_conversion', 'to_rgb'
        # Images are read as b, g, r.
        self.bgr = not any(getattr(preprocessor, name, False) for name in names)
        self.mean = self._channels(preprocessor, 'mean', 0.0)
        self.std = self._channels(preprocessor, 'std', 1.0)
        # mmseg pads in a test as its test_cfg says, if it has one.
        in_tests = getattr(preprocessor, 'test_cfg', None) or {}
        divisor = getattr(preprocessor, 'pad_size_divisor', None) or in_tests.get('size_divisor')
        self.divisor = int(divisor or 1)
        values = (getattr(preprocessor, name, 0) for name in ('pad_value', 'pad_val'))
        self.pad_value = max((v for v in values if isinstance(v, int | float)), default=0)

    def _channels(self, preprocessor: nn.Module, name: str, default: float) -> tuple[float, ...]:
        found = getattr(preprocessor, name, None)
        values = (default,) * 3 if found is None else tuple(found.flatten().tolist())
        if len(values) == 1:
            values *= 3
        if len(values) != 3:
            raise UserError(
                f'the model takes {len(values)} channels: only images of 3 are exported'
            )
        return values[::-1] if self.bgr else values


def exported_module(
    model: nn.Module,
    facts: InputFacts,
    preprocess: bool = False,
    label_map: bool = False,
    features: bool = False,
) -> tuple[ExportedModule, str]:
    """Wrap a model by its kind.

    Args:
        model: A classifier, segmentor or detector, in eval mode. It is used, not copied.
        facts: What its preprocessor does.
        preprocess: Whether the exported model normalises.
        label_map: Whether a segmentor returns the class of each pixel.
        features: Whether to export backbone and neck alone.

    Returns:
        The module, and why it is backbone and neck alone, '' if it is the whole model.

    Raises:
        UserError: If the model is of no kind that is known, or has no label map.
    """
    input = Input(facts.mean, facts.std, preprocess, facts.bgr)
    is_segmentor = hasattr(model, 'decode_head')
    if label_map and (features or not is_segmentor):
        raise UserError('--label-map is for whole segmentors: leave it out')
    if not features:
        if is_segmentor:
            return _segmentor(input, model, label_map), ''
        if hasattr(model, 'bbox_head') or hasattr(model, 'roi_head'):
            try:
                from .detection import exportable_detector

                return ExportedDetector(input, exportable_detector(model)), ''
            except UserError as error:
                return _features(input, model), str(error)
        if getattr(model, 'head', None) is not None:
            return ExportedClassifier(input, model), ''
    return _features(input, model), '' if features else f'{type(model).__name__} has no known head'


def _segmentor(input: Input, model: nn.Module, label_map: bool) -> ExportedModule:
    head = model.decode_head
    if not hasattr(head, 'align_corners') or isinstance(head, nn.ModuleList):
        raise UserError(
            f'{type(head).__name__} cannot be exported whole: --features exports backbone and neck'
        )
    return ExportedSegmentor(input, model, label_map)


def _features(input: Input, model: nn.Module) -> ExportedModule:
    if not hasattr(model, 'extract_feat'):
        raise UserError(
            f'{type(model).__name__} is no classifier, segmentor or detector: it cannot be exported'
        )
    with torch.no_grad():
        backbone = model.backbone
        size = getattr(backbone, 'folded_for', None) or (64, 64)
        weight = next(model.parameters())
        count = len(model.extract_feat(weight.new_zeros(1, 3, *size)))
    return ExportedFeatures(input, model, count)


def resize_facts(pipeline: Sequence[Mapping[str, Any]], pad_value: float) -> dict[str, Any]:
    """Read how a test pipeline makes an image fit.

    Args:
        pipeline: Steps of the pipeline, as a config has them.
        pad_value: What a divisor pads with.

    Returns:
        What :attr:`.metadata.Metadata.resize` describes.
    """
    found: dict[str, Any] = {
        'size': None,
        'keep_ratio': False,
        'crop': None,
        'pad_value': pad_value,
        'interpolation': 'bilinear',
        'backend': 'cv2',
    }
    for step in pipeline:
        kind = step['type'] if isinstance(step['type'], str) else step['type'].__name__
        kind = kind.rpartition('.')[2]
        if kind == 'ResizeEdge':
            edge = step.get('edge', 'short')
            short, long = (step['scale'], None) if edge == 'short' else (None, step['scale'])
            found |= {'size': [short, long], 'keep_ratio': True}
        elif kind == 'Resize' and step.get('scale') is not None:
            scale = step['scale']
            width, height = (scale, scale) if isinstance(scale, int) else scale
            keep = bool(step.get('keep_ratio', False))
            size = sorted((height, width)) if keep else [height, width]
            found |= {'size': size, 'keep_ratio': keep}
        elif kind == 'CenterCrop':
            size = step['crop_size']
            found['crop'] = [size, size] if isinstance(size, int) else [size[1], size[0]]
        if kind.startswith('Resize'):
            found['interpolation'] = step.get('interpolation', 'bilinear')
            found['backend'] = step.get('backend', 'cv2')
    return found
