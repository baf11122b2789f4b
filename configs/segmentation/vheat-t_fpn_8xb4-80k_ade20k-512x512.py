# Semantic FPN, after mmseg's twins_pcpvt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512.py.
_base_ = [
    'mmseg::_base_/models/fpn_r50.py',
    'mmseg::_base_/schedules/schedule_80k.py',
    '../_base_/vheat_ade20k.py',
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    pretrained=None,
    backbone=dict(_base_.vheat_tiny, drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
    decode_head=dict(num_classes=150),
)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=0.9, begin=1500, end=80000, by_epoch=False),
]

# --auto-scale-lr counts from 8 GPUs x 4 images.
auto_scale_lr = dict(enable=False, base_batch_size=32)
