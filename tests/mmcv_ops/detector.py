"""One training step and one prediction of the demo's Mask R-CNN: ``detector.py OUT``.

It runs on whatever ``mmcv.ops`` finds, and writes an archive with the file of that module, the
losses, two numbers for the gradient of every parameter, and the detections.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np
import torch
from golden import golden_weight
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

import mmvheat  # noqa: F401  installs the stand-in, where it is needed

import mmcv._ext  # isort: skip

CONFIG = (
    Path(__file__).parents[2] / 'configs/demo/mask-rcnn_vheat-mini_fpn_2xb4-1200i_digit-scenes.py'
)
SIDE = 96


def samples() -> dict:
    """Two noisy images with three boxes and masks each."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    rng = np.random.RandomState(0)
    inputs, labelled = [], []
    for _ in range(2):
        image = rng.randint(0, 90, (SIDE, SIDE, 3)).astype(np.uint8)
        masks, boxes = np.zeros((3, SIDE, SIDE), np.uint8), []
        for number, (x, y) in enumerate(((8, 10), (50, 20), (30, 60))):
            width, height = rng.randint(14, 30, size=2).tolist()
            cv2.ellipse(
                masks[number],
                (x + width // 2, y + height // 2),
                (width // 2, height // 2),
                0,
                0,
                360,
                1,
                -1,
            )
            image[masks[number] > 0] = rng.randint(100, 255, size=3)
            boxes.append((x, y, x + width, y + height))
        meta = dict(
            img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE), scale_factor=(1.0, 1.0),
            batch_input_shape=(SIDE, SIDE), pad_shape=(SIDE, SIDE), img_id=0,
        )  # fmt: skip
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32),
            labels=torch.from_numpy(rng.randint(0, 10, size=3)),
            masks=BitmapMasks(masks, SIDE, SIDE),
        )
        inputs.append(torch.from_numpy(image.transpose(2, 0, 1).copy()))
        labelled.append(sample)
    return dict(inputs=inputs, data_samples=labelled)


def main(out: str) -> None:
    torch.set_num_threads(1)
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.update(init_cfg=None, drop_path_rate=0.0)
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            weight.copy_(golden_weight(key, tuple(weight.shape)))
    found = {}
    model.train()
    # Versions of torch differ in how many random numbers the building of a model takes, and in what
    # stochastic depth would draw.
    torch.manual_seed(0)
    losses = model(**model.data_preprocessor(samples(), True), mode='loss')
    total, logged = model.parse_losses(losses)
    total.backward()
    found.update({name: np.float64(float(value)) for name, value in logged.items()})
    for key, weight in model.named_parameters():
        if weight.grad is not None:
            grad = weight.grad.double()
            found[f'grad {key}'] = np.array([float(grad.norm()), float(grad.sum())])
    model.eval()
    with torch.no_grad():
        predicted = model.test_step(samples())
    for number, sample in enumerate(predicted):
        instances = sample.pred_instances
        found[f'boxes {number}'] = instances.bboxes.numpy()
        found[f'scores {number}'] = instances.scores.numpy()
        found[f'labels {number}'] = instances.labels.numpy()
        found[f'areas {number}'] = np.array([int(mask.sum()) for mask in instances.masks])
    np.savez_compressed(out, module=mmcv._ext.__file__, **found)


if __name__ == '__main__':
    main(sys.argv[1])
