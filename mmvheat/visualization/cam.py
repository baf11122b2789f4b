"""Class activation maps, by the package grad-cam: where a model looks."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from mmvheat.errors import UserError
from mmvheat.extras import needs
from mmvheat.models import VHeat

from .operators import check_stage

__all__ = ['CAM_METHODS', 'class_activation']

# Names here, and in grad-cam. Eigen-CAM needs no gradient, and so no score.
CAM_METHODS = {'grad': 'GradCAM', 'eigen': 'EigenCAM'}


def class_activation(
    score: Callable[[Tensor], Tensor],
    backbone: VHeat,
    images: Tensor,
    stage: int = -1,
    method: str = 'grad',
) -> np.ndarray:
    """Compute where in an image the map of a stage speaks for a score.

    Args:
        score: Runs the model on images (B, 3, H, W) and gives a score for each, of shape (B,):
            a logit of a classifier, the scores of a detector's boxes, the logits of an area. With
            ``'eigen'`` its value does not matter.
        backbone: The model's backbone, in eval mode.
        images: Shape (B, 3, H, W), normalised as for the model.
        stage: The stage whose map is looked at, from 0; negative ones count from the last.
        method: ``'grad'``: Grad-CAM (arXiv 1610.02391), the channels weighted by the gradient of
            the score. ``'eigen'``: Eigen-CAM (arXiv 2008.00299), the first principal component of
            the channels, whatever the score.

    Returns:
        A map for each image, of shape (B, H, W), in [0, 1], the least of each 0 and the most 1.

    Raises:
        UserError: If the stage or the method does not exist, grad-cam is not installed, or the
            score has no gradient.
    """
    if method not in CAM_METHODS:
        raise UserError(f'method is one of {", ".join(CAM_METHODS)}, got {method!r}')
    check_stage(backbone, stage)
    grad_cam = needs('pytorch_grad_cam', 'visualization', 'grad-cam')
    kind = getattr(grad_cam, CAM_METHODS[method])
    scored = _Scored(backbone, score, needs_gradient=method == 'grad')
    # Our maps are channels-last.
    with kind(scored, [backbone.layers[stage]], lambda x: x.permute(0, 3, 1, 2)) as cam:
        return cam(images, [lambda output: output] * len(images))


class _Scored(nn.Module):
    """The model that grad-cam runs.

    Args:
        backbone: It tells grad-cam the device.
        score: See :func:`class_activation`.
        needs_gradient: Whether the score must have one.
    """

    def __init__(
        self, backbone: VHeat, score: Callable[[Tensor], Tensor], needs_gradient: bool
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.score = score
        self.needs_gradient = needs_gradient

    def forward(self, images: Tensor) -> Tensor:
        """Score images."""
        with torch.enable_grad():
            scores = self.score(images)
        if self.needs_gradient and not scores.requires_grad:
            raise UserError(
                'this model gives scores without a gradient, which Grad-CAM needs: use Eigen-CAM'
            )
        return scores
