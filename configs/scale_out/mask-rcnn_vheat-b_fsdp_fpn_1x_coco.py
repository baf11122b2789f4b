_base_ = ['../detection/mask-rcnn_vheat-b_fpn_1x_coco.py', '../_base_/fsdp.py']

# Recompute the blocks' activations in the backward pass: memory for time.
model = dict(backbone=dict(with_cp=True))
