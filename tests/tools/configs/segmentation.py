default_scope = 'mmseg'
data_root = '{{$TINY_DATA:data}}'

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.0] * 3,
        std=[60.0] * 3,
        bgr_to_rgb=True,
        size=(64, 64),
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='mmvheat.VHeat',
        arch=dict(depths=[1, 1, 1, 1], dims=8),
        img_size=64,
        drop_path_rate=0.3,
        out_indices=(3,),
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=64,
        in_index=0,
        channels=8,
        num_convs=1,
        dropout_ratio=0.3,
        num_classes=3,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
load, pack = dict(type='LoadImageFromFile'), dict(type='PackSegInputs')
labels = dict(type='LoadAnnotations')
augment = [
    dict(type='RandomResize', scale=(64, 64), ratio_range=(0.7, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(64, 64), cat_max_ratio=0.9),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
]
data = dict(
    type='BaseSegDataset',
    data_root=data_root,
    img_suffix='.png',
    metainfo=dict(
        classes=('back', 'square', 'disc'), palette=[[0, 0, 0], [250, 0, 0], [0, 250, 0]]
    ),
)
train_dataloader = dict(
    batch_size=2,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        data,
        data_prefix=dict(img_path='scenes/train', seg_map_path='labels/train'),
        pipeline=[load, labels, *augment, pack],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data,
        data_prefix=dict(img_path='scenes/val', seg_map_path='labels/val'),
        pipeline=[load, labels, pack],
    ),
)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40, val_interval=20)
val_cfg = test_cfg = dict()
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
param_scheduler = dict(type='PolyLR', power=1.0, begin=0, end=40, by_epoch=False)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=5, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4, max_keep_ckpts=2),
    visualization=dict(type='SegVisualizationHook'),
)
log_processor = dict(by_epoch=False)
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
