# What the detectors share: the backbone, the 1x schedule with AdamW for 8 GPUs x 2 images, TTA.
_base_ = ['mmdet::_base_/schedules/schedule_1x.py', 'mmdet::_base_/default_runtime.py']
custom_imports = dict(
    imports=['mmvheat', 'mmvheat.engine.instance_tta'], allow_failed_imports=False
)

# What interpolate4downstream.py makes of the ImageNet-1K classifier with --tg_size 512.
pretrained = 'checkpoints/vheat-tiny_in1k_512px.pth'
vheat_tiny = dict(
    _delete_=True,
    type='mmvheat.VHeat',
    arch='tiny',
    img_size=512,
    drop_path_rate=0.1,
    init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.'),
)

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)

# How to merge comes from the detector's own test_cfg.
tta_model = dict(type='mmvheat.InstanceTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=scale, keep_ratio=True)
                for scale in [(1333, 800), (1333, 640), (1600, 960)]
            ],
            # The plain view is the first: it gives the ground truth.
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [
                dict(
                    type='PackDetInputs',
                    meta_keys=(
                        'img_id',
                        'img_path',
                        'ori_shape',
                        'img_shape',
                        'scale_factor',
                        'flip',
                        'flip_direction',
                    ),
                )
            ],
        ],
    ),
]
