_base_ = 'mask-rcnn_vheat-mini_fpn_2xb4-1200i_digit-scenes.py'

# schedule: shorter, for the demo's usual length
max_iters = 300
train_cfg = dict(max_iters=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=max_iters // 15),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=max_iters // 15, end=max_iters),
]

# runtime
default_hooks = dict(checkpoint=dict(interval=150))
