"""What a classifier, detector or segmentor finds in an image, by the inferencer of its library."""

import copy
import io
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmvheat.errors import config_errors

from .config import load_config, require
from .model import hush

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config
    from torch import nn

__all__ = ['Predictor', 'enlarge', 'enlargement', 'load_predictor']

# Names and scores on a smaller picture cannot be read.
_SHORTEST_SIDE, _LONGEST_SIDE = 384, 2048
_TOP = 5
_COLUMNS = {
    'mmpretrain': ('class', 'score'),
    'mmdet': ('class', 'found', 'best score'),
    'mmseg': ('class', 'share of the area'),
}


@dataclass(frozen=True)
class Predictor:
    """A model of one of the three libraries that predicts, and draws what it found.

    Only one thread may use it, or another one, at a time: the libraries keep scopes and pictures
    for the whole process.

    Attributes:
        cfg: Its config, as it was read.
        inferencer: The library's inferencer.
    """

    cfg: 'Config'
    inferencer: Any

    @property
    def model(self) -> 'nn.Module':
        """The classifier, detector or segmentor, in eval mode."""
        return self.inferencer.model

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of its classes; empty if they are not known."""
        if self._scope == 'mmpretrain':
            return tuple(self.inferencer.classes or ())
        return tuple(self.model.dataset_meta['classes'] or ())

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of :meth:`describe`."""
        return _COLUMNS[self._scope]

    @property
    def _scope(self) -> str:
        return self.cfg.default_scope

    def predict(self, image: 'np.ndarray', score_thr: float = 0.3) -> Any:
        """Predict; of detections only those with a high enough score are kept.

        Args:
            image: Shape (H, W, 3), BGR, uint8.
            score_thr: The lowest score of a detection.

        Returns:
            The library's data sample, on the CPU.
        """
        from mmengine.registry import DefaultScope

        with DefaultScope.overwrite_default_scope(self._scope), redirect_stdout(io.StringIO()):
            result = self.inferencer(image, return_datasamples=True)
        if self._scope == 'mmseg':
            return result.cpu()
        sample = (result['predictions'] if self._scope == 'mmdet' else result)[0].cpu()
        if self._scope == 'mmdet':
            found = sample.pred_instances
            sample.pred_instances = found[found.scores >= score_thr]
        return sample

    def describe(self, sample: Any) -> list[tuple[str, ...]]:
        """Say what was found, the most important first, in the columns of :attr:`columns`."""
        if self._scope == 'mmpretrain':
            scores = sample.pred_score
            best = scores.topk(min(_TOP, len(scores)))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            return [(self._name(label), f'{score:.3f}') for label, score in pairs]
        labels = (
            sample.pred_instances.labels if self._scope == 'mmdet' else sample.pred_sem_seg.data
        )
        found, counts = labels.unique(return_counts=True)
        names = [self._name(label) for label in found.tolist()]
        order = counts.argsort(descending=True, stable=True).tolist()
        if self._scope == 'mmseg':
            share = counts / counts.sum()
            return [(names[i], f'{share[i]:.1%}') for i in order]
        scores = sample.pred_instances.scores
        best = [scores[labels == label].max() for label in found]
        return [(names[i], str(counts[i].item()), f'{best[i]:.3f}') for i in order]

    def draw(self, image: 'np.ndarray', sample: Any, show: bool = False) -> 'np.ndarray':
        """Draw with the library's visualizer, small images enlarged.

        Args:
            image: Shape (H, W, 3), BGR, uint8.
            sample: What :meth:`predict` found in it; it is changed.
            show: Whether to show the picture in a window as well.

        Returns:
            The picture, of shape (H', W', 3), RGB, uint8.
        """
        from mmengine.registry import DefaultScope

        factor = enlargement(image.shape[:2])
        canvas = enlarge(image[..., ::-1], factor)
        options: dict[str, Any] = {'return_vis': True}
        if self._scope == 'mmdet':
            found = sample.pred_instances
            found.bboxes = found.bboxes * factor
            if 'masks' in found:
                found.masks = found.masks.repeat_interleave(factor, 1)
                found.masks = found.masks.repeat_interleave(factor, 2)
            options['pred_score_thr'] = 0.0
        elif self._scope == 'mmseg':
            labels = sample.pred_sem_seg.data
            sample.pred_sem_seg = type(sample.pred_sem_seg)(
                data=labels.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
            )
        with (
            DefaultScope.overwrite_default_scope(self._scope),
            redirect_stdout(io.StringIO()),
            tempfile.TemporaryDirectory() as folder,
        ):
            if self._scope == 'mmpretrain':
                options = {'show_dir': folder}
            (picture,) = self.inferencer.visualize([canvas], [sample], show=show, **options)
        return picture

    def _name(self, label: int) -> str:
        classes = self.classes
        return classes[label] if label < len(classes) else f'class {label}'


def load_predictor(config: str, checkpoint: str, device: str) -> Predictor:
    """Build the inferencer of a config's library with a checkpoint.

    Args:
        config: Path of the config.
        checkpoint: Path or URL of the checkpoint.
        device: Where it is to run, see :func:`.check_device`.

    Raises:
        UserError: If the config or the checkpoint cannot be used, or they do not fit each other.
    """
    from mmengine.registry import MODELS, DefaultScope

    from .preflight import open_checkpoint

    opened = open_checkpoint(checkpoint)
    opened.check_weights()
    cfg = load_config(config)
    require(cfg, config, ('model', 'test_dataloader'), 'testing')
    hush()
    # What the libraries print belongs to their own command lines.
    with (
        DefaultScope.overwrite_default_scope(cfg.default_scope),
        redirect_stdout(io.StringIO()),
        config_errors(config),
    ):
        # The inferencers would only warn.
        opened.check_fit(MODELS.build(cfg.model), exact=True)
        # They change the config that they are given.
        return Predictor(cfg, _build_inferencer(copy.deepcopy(cfg), checkpoint, device))


def enlargement(size: Sequence[int]) -> int:
    """Tell how many times a picture of a height and width is enlarged, so that it can be read."""
    return max(1, min(-(-_SHORTEST_SIDE // min(size)), _LONGEST_SIDE // max(size)))


def enlarge(image: 'np.ndarray', factor: int) -> 'np.ndarray':
    """Repeat the pixels of an image (H, W, ...) along both sides."""
    return image.repeat(factor, 0).repeat(factor, 1)


def _build_inferencer(cfg: 'Config', checkpoint: str, device: str) -> Any:
    """Build the inferencer of the config's library; its visualizer keeps no files."""
    if cfg.default_scope == 'mmpretrain':
        from mmpretrain import ImageClassificationInferencer

        return ImageClassificationInferencer(cfg, pretrained=checkpoint, device=device)
    if cfg.default_scope == 'mmdet':
        from mmdet.apis import DetInferencer

        cfg.visualizer = dict(type='DetLocalVisualizer')
        return DetInferencer(cfg, checkpoint, device=device, show_progress=False)
    from mmseg.apis import MMSegInferencer

    cfg.visualizer = dict(type='SegLocalVisualizer')
    return MMSegInferencer(cfg, checkpoint, device=device)
