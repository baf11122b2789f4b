_base_ = './mask-rcnn_vheat-t_fpn_1x_coco.py'

pretrained = 'checkpoints/vheat-small_in1k_512px.pth'
model = dict(backbone=dict(arch='small', drop_path_rate=0.3, init_cfg=dict(checkpoint=pretrained)))
