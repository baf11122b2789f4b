"""The classifiers that the published repository links: one table for all who load or cite them."""

from dataclasses import dataclass

__all__ = ['PUBLISHED_CLASSIFIERS', 'PublishedClassifier']

_RELEASE = 'https://github.com/MzeroMiko/vHeat/releases/download/vheatcls'


@dataclass(frozen=True)
class PublishedClassifier:
    """A published file: ImageNet-1K, 1000 classes, trained at 224 x 224 for 300 epochs.

    Attributes:
        url: Its address. The file names no licence.
        top1: Accuracy on ImageNet-1K in per cent, reported by the paper, not reproduced with this
            code.
    """

    url: str
    top1: float


# By their names in ARCHS. configs/classification/metafile.yml says the same, which a test holds.
PUBLISHED_CLASSIFIERS = {
    'tiny': PublishedClassifier(f'{_RELEASE}/vHeat_tiny.pth', top1=82.2),
    'small': PublishedClassifier(f'{_RELEASE}/vHeat_small.pth', top1=83.6),
    'base': PublishedClassifier(f'{_RELEASE}/vHeat_base.pth', top1=83.9),
}
