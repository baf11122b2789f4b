# The published ImageNet-1K recipe, for 16 GPUs x 128 images: lr 5e-4 for 512 images.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmvheat'], allow_failed_imports=False)

model = dict(
    type='ImageClassifier',
    # The norm comes before pooling: it is the backbone's outnorm3.
    backbone=dict(type='mmvheat.VHeat', img_size=224, out_indices=(3,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=768,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        cal_acc=False,
    ),
    # One of the two for each batch, with equal chances.
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)

train_dataloader = dict(batch_size=128, num_workers=8)
val_dataloader = dict(batch_size=128, num_workers=8)
test_dataloader = val_dataloader

optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale='dynamic',
    optimizer=dict(type='AdamW', lr=5e-4 * 2048 / 512, betas=(0.9, 0.999), weight_decay=0.08),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
# Ratios, so that both ends follow the learning rate when --auto-scale-lr scales it.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, end=20, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-2,
        begin=20,
        end=300,
        T_max=280,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
custom_hooks = [dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')]

# --auto-scale-lr counts from 16 GPUs x 128 images.
auto_scale_lr = dict(enable=False, base_batch_size=2048)
