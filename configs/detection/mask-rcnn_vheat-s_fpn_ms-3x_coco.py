_base_ = './mask-rcnn_vheat-t_fpn_ms-3x_coco.py'

pretrained = 'checkpoints/vheat-small_in1k_512px.pth'
model = dict(
    backbone=dict(
        arch='small', img_size=512, drop_path_rate=0.4, init_cfg=dict(checkpoint=pretrained)
    )
)
