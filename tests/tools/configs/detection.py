default_scope = 'mmdet'
data_root = '{{$TINY_DATA:data}}'

head_loss = dict(
    bbox_coder=dict(
        type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]
    ),
    loss_bbox=dict(type='L1Loss', loss_weight=1.0),
)
sigmoid = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)
assigner = dict(
    type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0.3, ignore_iof_thr=-1
)
sampler = dict(
    type='RandomSampler', num=16, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=False
)
extractor = dict(type='SingleRoIExtractor', out_channels=8, featmap_strides=[4, 8, 16, 32])
model = dict(
    type='MaskRCNN',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[127.0] * 3,
        std=[60.0] * 3,
        bgr_to_rgb=True,
        pad_mask=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type='mmvheat.VHeat',
        arch=dict(depths=[1, 1, 1, 1], dims=8),
        img_size=64,
        drop_path_rate=0.1,
    ),
    neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=4),
    rpn_head=dict(
        type='RPNHead',
        in_channels=8,
        feat_channels=8,
        anchor_generator=dict(
            type='AnchorGenerator', scales=[4], ratios=[1.0], strides=[4, 8, 16, 32]
        ),
        loss_cls=sigmoid,
        **head_loss,
    ),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(extractor, roi_layer=dict(type='RoIAlign', output_size=7)),
        bbox_head=dict(
            type='Shared2FCBBoxHead',
            in_channels=8,
            fc_out_channels=16,
            roi_feat_size=7,
            num_classes=2,
            loss_cls=dict(type='CrossEntropyLoss', loss_weight=1.0),
            **head_loss,
        ),
        mask_roi_extractor=dict(extractor, roi_layer=dict(type='RoIAlign', output_size=14)),
        mask_head=dict(
            type='FCNMaskHead',
            num_convs=1,
            in_channels=8,
            conv_out_channels=8,
            num_classes=2,
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(
        rpn=dict(assigner=assigner, sampler=sampler, allowed_border=-1, pos_weight=-1),
        rpn_proposal=dict(
            nms_pre=100, max_per_img=50, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0
        ),
        rcnn=dict(
            assigner=assigner,
            sampler=dict(sampler, add_gt_as_proposals=True),
            mask_size=28,
            pos_weight=-1,
        ),
    ),
    test_cfg=dict(
        rpn=dict(
            nms_pre=100, max_per_img=50, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0
        ),
        rcnn=dict(
            score_thr=0.0,
            nms=dict(type='nms', iou_threshold=0.5),
            max_per_img=10,
            mask_thr_binary=0.5,
        ),
    ),
)
load = dict(type='LoadImageFromFile')
labels = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
resize = dict(type='Resize', scale=(64, 64), keep_ratio=True)
data = dict(type='CocoDataset', data_root=data_root, metainfo=dict(classes=('square', 'disc')))
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        data,
        ann_file='train.json',
        data_prefix=dict(img='scenes/train'),
        pipeline=[load, labels, resize, dict(type='PackDetInputs')],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data,
        ann_file='val.json',
        data_prefix=dict(img='scenes/val'),
        test_mode=True,
        pipeline=[
            load,
            resize,
            labels,
            dict(
                type='PackDetInputs',
                meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
            ),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(
    type='CocoMetric', ann_file=data_root + '/val.json', metric=['bbox', 'segm']
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
auto_scale_lr = dict(enable=False, base_batch_size=8)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', interval=1),
    visualization=dict(type='DetVisualizationHook'),
)
visualizer = dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
