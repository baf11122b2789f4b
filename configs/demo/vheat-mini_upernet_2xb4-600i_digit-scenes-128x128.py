_base_ = [
    'mmseg::_base_/models/upernet_swin.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/vheat_digits.py',
]

# model
model = dict(
    data_preprocessor=dict(size=(128, 128), mean=_base_.pixel_mean, std=_base_.pixel_std),
    backbone=dict(
        _delete_=True,
        img_size=128,
        init_cfg=dict(type='Pretrained', checkpoint=_base_.converted, prefix='backbone.'),
        **_base_.vheat_mini,
    ),
    decode_head=dict(
        in_channels=[32, 64, 128, 256],
        pool_scales=(1, 2),
        channels=64,
        num_classes=11,
        norm_cfg=dict(type='BN'),
        # With the usual std of 0.01 the short run ends predicting background alone.
        init_cfg=dict(type='Normal', std=0.1, override=dict(name='conv_seg')),
        loss_decode=dict(class_weight=[0.4] + [1.0] * 10),
    ),
    auxiliary_head=None,
)

# data: digits are chiral, so no flips
dataset_type = 'BaseSegDataset'
scenes = _base_.data_root + 'scenes/'
metainfo = dict(
    classes=('background', *_base_.classes),
    palette=[
        [60, 60, 60],
        [230, 25, 75],
        [60, 180, 75],
        [255, 225, 25],
        [0, 130, 200],
        [245, 130, 48],
        [145, 30, 180],
        [70, 240, 240],
        [240, 50, 230],
        [210, 245, 60],
        [250, 190, 212],
    ],
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
test_pipeline = train_pipeline
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale_factor=ratio, keep_ratio=True)
                for ratio in (0.75, 1.0, 1.25)
            ],
            [dict(type='LoadAnnotations', reduce_zero_label=True)],
            [dict(type='PackSegInputs')],
        ],
    ),
]
dataset = dict(
    type=dataset_type,
    data_root=scenes,
    metainfo=metainfo,
    img_suffix='.png',
    seg_map_suffix='.png',
    reduce_zero_label=True,
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        data_prefix=dict(img_path='train/images', seg_map_path='train/masks'),
        pipeline=train_pipeline,
        **dataset,
    ),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data_prefix=dict(img_path='val/images', seg_map_path='val/masks'),
        pipeline=test_pipeline,
        **dataset,
    ),
)
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_cfg = dict(type='TestLoop')

# schedule
max_iters = 600
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05, fused=True),
    # A lower rate keeps what pretraining learned; docs/demo.md tells what the full rate does.
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.25))),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=max_iters // 15),
    dict(type='PolyLR', power=1.0, by_epoch=False, begin=max_iters // 15, end=max_iters),
]
auto_scale_lr = dict(base_batch_size=8)

# runtime
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=200, by_epoch=False, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
