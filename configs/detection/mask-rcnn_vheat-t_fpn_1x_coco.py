_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/vheat_coco.py',
]

model = dict(backbone=_base_.vheat_tiny, neck=dict(in_channels=[96, 192, 384, 768]))
