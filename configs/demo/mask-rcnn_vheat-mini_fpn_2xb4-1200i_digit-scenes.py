_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/default_runtime.py',
    '../_base_/vheat_digits.py',
]

# model: a Mask R-CNN for scenes of 128 pixels with digits of 16 to 52
model = dict(
    data_preprocessor=dict(mean=_base_.pixel_mean, std=_base_.pixel_std),
    backbone=dict(
        _delete_=True,
        img_size=128,
        init_cfg=dict(type='Pretrained', checkpoint=_base_.converted, prefix='backbone.'),
        **_base_.vheat_mini,
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64, num_outs=4),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[4], ratios=[1.0, 2.0], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        # The usual 56 would send every digit to the finest level.
        bbox_roi_extractor=dict(out_channels=64, finest_scale=28),
        bbox_head=dict(in_channels=64, fc_out_channels=128, num_classes=10),
        mask_roi_extractor=dict(out_channels=64, finest_scale=28),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64, num_classes=10),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=300, max_per_img=100), rcnn=dict(sampler=dict(num=32))
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100), rcnn=dict(max_per_img=30)),
)

# data: digits are chiral, so no flips
dataset_type = 'CocoDataset'
scenes = _base_.data_root + 'scenes/'
metainfo = dict(classes=_base_.classes)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 128), keep_ratio=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=scenes,
        metainfo=metainfo,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/images/'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=scenes,
        metainfo=metainfo,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/images/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(
    type='CocoMetric', ann_file=scenes + 'annotations/instances_val.json', metric=['bbox', 'segm']
)
test_cfg = dict(type='TestLoop')

# schedule
max_iters = 1200
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05, fused=True),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=max_iters // 15),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=max_iters // 15, end=max_iters),
]
auto_scale_lr = dict(base_batch_size=8)

# runtime
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=300, by_epoch=False, max_keep_ckpts=2)
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
