"""Parameters and FLOPs of classifiers, detectors and segmentors."""

from .counting import Count, count_model
from .published import PublishedModel, read_published

__all__ = ['Count', 'PublishedModel', 'count_model', 'read_published']
