"""How sure a classifier, detector or segmentor is of a class: a function of images."""

from collections.abc import Callable

import torch
from torch import Tensor

from mmvheat.errors import UserError

from .model import Image, LoadedModel

__all__ = ['class_score']


def class_score(
    loaded: LoadedModel, image: Image, label: int | None = None
) -> tuple[Callable[[Tensor], Tensor], int]:
    """Make the score of a class that class activation maps take the gradient of.

    It is the logit of a classifier, the sum of the scores of a detector's boxes of the class, and
    the sum of a segmentor's logits where the class is the likeliest.

    Args:
        loaded: The model.
        image: The image.
        label: The class; None for the likeliest: of a classifier the best, of a detector that of
            its best box, of a segmentor the one with the largest area.

    Returns:
        A function of images (1, 3, H, W) to scores (1,), and the class.

    Raises:
        UserError: If the model has no such class, or finds none in the image.
    """
    make = {'mmpretrain': _of_classifier, 'mmdet': _of_detector, 'mmseg': _of_segmentor}
    with torch.no_grad():
        return make[loaded.cfg.default_scope](loaded, image, label)


def _of_classifier(loaded: LoadedModel, image: Image, label: int | None):
    def logits(images: Tensor) -> Tensor:
        return loaded.model(images, image.samples, mode='tensor')

    found = logits(image.inputs)
    label = _known(found.argmax(1).item() if label is None else label, found.size(1))
    return lambda images: logits(images)[:, label], label


def _of_detector(loaded: LoadedModel, image: Image, label: int | None):
    def predict(images: Tensor):
        return loaded.model.predict(images, image.samples, rescale=False)[0].pred_instances

    found = predict(image.inputs)
    if label is None and len(found):
        label = found.labels[found.scores.argmax()].item()
    if not len(found) or not (found.labels == label).any():
        raise UserError('the model finds no box' + _of(loaded, label) + ' in this image')

    def score(images: Tensor) -> Tensor:
        boxes = predict(images)
        return boxes.scores[boxes.labels == label].sum()[None]

    return score, label


def _of_segmentor(loaded: LoadedModel, image: Image, label: int | None):
    def logits(images: Tensor) -> Tensor:
        return loaded.model(images, mode='tensor')

    found = logits(image.inputs)
    likeliest = found.argmax(1)
    if label is None:
        label = likeliest.flatten().bincount().argmax().item()
    area = likeliest == _known(label, found.size(1))
    if not area.any():
        raise UserError('the model finds no pixel' + _of(loaded, label) + ' in this image')
    return lambda images: logits(images)[:, label][area].sum()[None], label


def _known(label: int, count: int) -> int:
    if not 0 <= label < count:
        raise UserError(f'there is no class {label}: the model has 0 to {count - 1}')
    return label


def _of(loaded: LoadedModel, label: int | None) -> str:
    return '' if label is None else f' of class {loaded.class_name(label)}'
