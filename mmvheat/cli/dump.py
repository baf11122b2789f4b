"""``--out`` of ``tools/test.py``: predictions in one pickle file."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import DumpResults

__all__ = ['DumpSegmentation', 'build_dump']


class DumpSegmentation(DumpResults):
    """Dumps label maps without logits, which take a hundred times their place.

    The file holds a list of ``dict(img_path, pred_sem_seg)``, the latter an integer array (H, W).
    """

    def process(self, data_batch: Any, predictions: Sequence[dict]) -> None:
        """Keep the label map of each image."""
        for sample in predictions:
            labels = sample['pred_sem_seg']['data'].squeeze(0).cpu().numpy()
            kind = np.uint8 if labels.max(initial=0) < 256 else np.int32
            self.results.append(dict(img_path=sample['img_path'], pred_sem_seg=labels.astype(kind)))


def build_dump(scope: str, out: str | None) -> DumpResults | None:
    """Build the metric that writes predictions to ``out``, if that is a pickle file."""
    if out is None or not out.endswith(('.pkl', '.pickle')):
        return None
    if scope == 'mmdet':
        from mmdet.evaluation import DumpDetResults

        return DumpDetResults(out_file_path=out)
    return (DumpSegmentation if scope == 'mmseg' else DumpResults)(out_file_path=out)
