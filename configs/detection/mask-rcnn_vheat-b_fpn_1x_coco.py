_base_ = './mask-rcnn_vheat-t_fpn_1x_coco.py'

pretrained = 'checkpoints/vheat-base_in1k_512px.pth'
model = dict(
    backbone=dict(arch='base', drop_path_rate=0.5, init_cfg=dict(checkpoint=pretrained)),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
