"""An exported file as the model of a config's test: the same data, the same metrics."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor

from mmvheat.errors import UserError
from mmvheat.registry import MODELS

from .runtimes import open_exported

__all__ = ['ExportedModel']


@MODELS.register_module()
class ExportedModel(BaseModel):
    """Predicts with an exported file what the model that it came from predicts.

    Boxes, masks and label maps are fitted to the original images as mmdet and mmseg do.

    Args:
        file: Path of the file.
        data_preprocessor: Config of the library's preprocessor; it must give RGB, normalised by
            the file's own mean and standard deviation.
        test_cfg: The ``test_cfg`` of the config's model: of a segmentor its mode ``'whole'`` or
            ``'slide'``, with ``crop_size`` and ``stride``.
        align_corners: How a segmentor's decode head resizes its logits.

    Raises:
        UserError: If the file cannot be opened, or gives no predictions.
    """

    def __init__(
        self,
        file: str,
        data_preprocessor: dict | None = None,
        test_cfg: dict | None = None,
        align_corners: bool = False,
    ) -> None:
        super().__init__(data_preprocessor)
        self.exported = open_exported(file)
        self.metadata = self.exported.metadata
        self.test_cfg = test_cfg or {}
        self.align_corners = align_corners
        if self.metadata.task not in ('classification', 'segmentation', 'detection'):
            raise UserError(f'{file} gives {self.metadata.task}: there is nothing to evaluate')

    def forward(
        self, inputs: Tensor, data_samples: Sequence[Any] | None = None, mode: str = 'tensor'
    ) -> Any:
        """Predict.

        Args:
            inputs: Images of shape (B, 3, H, W), of the preprocessor.
            data_samples: The library's samples of them.
            mode: ``'tensor'`` for the outputs by name, ``'predict'`` for the samples with what was
                predicted.

        Raises:
            UserError: If the file cannot take images of this size.
            ValueError: If the mode is another one.
        """
        if mode == 'tensor':
            return self._run(inputs)
        if mode != 'predict':
            raise ValueError(
                f"an exported model has the modes 'tensor' and 'predict', got {mode!r}"
            )
        return getattr(self, f'_predict_{self.metadata.task}')(inputs, data_samples)

    def _run(self, inputs: Tensor) -> dict[str, Tensor]:
        """Run images in batches that the file takes."""
        inputs = self._input(inputs)
        step = self.metadata.batch if isinstance(self.metadata.batch, int) else len(inputs)
        parts = []
        for chunk in inputs.split(step):
            # A batch of a fixed size is filled up with its last image.
            filled = torch.cat([chunk, chunk[-1:].expand(step - len(chunk), *chunk.shape[1:])])
            outputs = self.exported(filled.numpy())
            parts.append({name: value[: len(chunk)] for name, value in outputs.items()})
        return {
            name: torch.cat([torch.from_numpy(part[name]) for part in parts]) for name in parts[0]
        }

    def _input(self, inputs: Tensor) -> Tensor:
        """Bring images to the form and size that the file takes."""
        metadata, (height, width) = self.metadata, inputs.shape[2:]
        inputs = inputs.cpu()
        if metadata.size != 'dynamic':
            below, beside = metadata.size[0] - height, metadata.size[1] - width
            if below < 0 or beside < 0 or (metadata.task == 'classification' and below + beside):
                raise UserError(
                    f'the file takes images of {metadata.size[0]} x {metadata.size[1]}, the test '
                    f"gives {height} x {width}: export it for the test's size, or for any (--size "
                    'dynamic)'
                )
            inputs = F.pad(inputs, (0, beside, 0, below))
        if metadata.preprocess:
            mean, std = (
                torch.tensor(value).view(3, 1, 1) for value in (metadata.mean, metadata.std)
            )
            pixels = (inputs * std + mean).round().clamp(0, 255)
            inputs = pixels.to(torch.uint8).permute(0, 2, 3, 1)
        return inputs.contiguous()

    def _predict_classification(self, inputs: Tensor, samples: Sequence[Any]) -> Sequence[Any]:
        for sample, scores in zip(samples, self._run(inputs)['scores'], strict=True):
            sample.set_pred_score(scores).set_pred_label(scores.argmax(keepdim=True))
        return samples

    def _predict_segmentation(self, inputs: Tensor, samples: Sequence[Any]) -> Sequence[Any]:
        if self.test_cfg.get('mode', 'whole') == 'slide':
            maps = self._slide(inputs)
        else:
            maps = self._maps(inputs)
        for sample, values in zip(samples, maps, strict=True):
            left, right, top, bottom = sample.metainfo.get(
                'img_padding_size', sample.metainfo.get('padding_size', [0] * 4)
            )
            height, width = values.shape[1:]
            values = values[None, :, top : height - bottom, left : width - right]
            size = tuple(sample.metainfo['ori_shape'])
            if values.is_floating_point():
                values = F.interpolate(
                    values, size, mode='bilinear', align_corners=self.align_corners
                )[0]
                sample.seg_logits = PixelData(data=values)
                values = values.argmax(0, keepdim=True)
            else:
                values = F.interpolate(values.float(), size, mode='nearest')[0].long()
            sample.pred_sem_seg = PixelData(data=values)
        return samples

    def _maps(self, inputs: Tensor) -> Tensor:
        """The logits (B, classes, H, W) of images of that size, or their labels (B, 1, H, W)."""
        outputs, (height, width) = self._run(inputs), inputs.shape[2:]
        maps = outputs['logits'] if 'logits' in outputs else outputs['labels'][:, None].long()
        return maps[..., :height, :width]

    def _slide(self, inputs: Tensor) -> Tensor:
        """Average logits over the windows of the config, as mmseg does."""
        sides = []
        for side, crop, stride in zip(
            inputs.shape[2:], self.test_cfg['crop_size'], self.test_cfg['stride'], strict=True
        ):
            starts = range(0, max(side - crop + stride - 1, 0) // stride * stride + 1, stride)
            sides.append([slice(max(min(at + crop, side) - crop, 0), at + crop) for at in starts])
        logits = count = 0
        for rows in sides[0]:
            for columns in sides[1]:
                part = self._maps(inputs[:, :, rows, columns])
                if not part.is_floating_point():
                    raise UserError(
                        'the config averages logits of windows (test_cfg.mode=slide), this file '
                        'gives labels: export it without --label-map'
                    )
                if isinstance(logits, int):
                    logits = part.new_zeros(*part.shape[:2], *inputs.shape[2:])
                    count = part.new_zeros(inputs.shape[2:])
                logits[:, :, rows, columns] += part
                count[rows, columns] += 1
        return logits / count

    def _predict_detection(self, inputs: Tensor, samples: Sequence[Any]) -> Sequence[Any]:
        outputs = self._run(inputs)
        for i, sample in enumerate(samples):
            found = {name: values[i] for name, values in outputs.items()}
            sample.pred_instances = self._instances(found, sample)
        return samples

    def _instances(self, found: dict[str, Tensor], sample: BaseDataElement) -> InstanceData:
        """Take the rows that are used, and fit boxes and masks to the original image."""
        (height, width), info = sample.metainfo['ori_shape'], sample.metainfo
        # What the padding holds is no part of the image.
        seen = torch.tensor(info['img_shape'][1::-1]).repeat(2)
        boxes = found['boxes'].clamp(min=torch.zeros(4), max=seen)
        kept = (found['labels'] >= 0) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        boxes = boxes[kept] / torch.tensor(info['scale_factor'], dtype=boxes.dtype).repeat(2)
        instances = InstanceData(
            bboxes=boxes, scores=found['scores'][kept], labels=found['labels'][kept]
        )
        if 'masks' in found:
            from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

            masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
            # One at a time: mmdet pastes over the whole image.
            for mask, probabilities, box in zip(masks, found['masks'][kept], boxes, strict=True):
                pasted, place = _do_paste_mask(
                    probabilities[None, None].float(), box[None], height, width
                )
                mask[place] = pasted[0] >= self.metadata.mask_threshold
            instances.masks = masks
        return instances
