_base_ = 'vheat-mini_upernet_2xb4-600i_digit-scenes-128x128.py'

# schedule: shorter, for the demo's usual length
max_iters = 300
train_cfg = dict(max_iters=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=max_iters // 15),
    dict(type='PolyLR', power=1.0, by_epoch=False, begin=max_iters // 15, end=max_iters),
]

# runtime
default_hooks = dict(checkpoint=dict(interval=150))
