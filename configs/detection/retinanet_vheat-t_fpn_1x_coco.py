_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    '../_base_/vheat_coco.py',
]

model = dict(
    # RetinaNet begins at stride 8: the first map would leave its norm without gradients.
    backbone=dict(_base_.vheat_tiny, out_indices=(1, 2, 3)),
    neck=dict(in_channels=[192, 384, 768], start_level=0),
)
