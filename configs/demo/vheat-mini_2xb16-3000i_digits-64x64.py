_base_ = ['mmpretrain::_base_/default_runtime.py', '../_base_/vheat_digits.py']

# model
backbone = _base_.vheat_mini
backbone.update(img_size=64, out_indices=(3,))
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        num_classes=10, mean=_base_.pixel_mean, std=_base_.pixel_std, to_rgb=True
    ),
    backbone=backbone,
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=256,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)

# data: digits are chiral, so no flips
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
test_pipeline = train_pipeline
dataset = dict(type='CustomDataset', data_root=_base_.data_root, classes=_base_.classes)
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(data_prefix='cls/train', pipeline=train_pipeline, **dataset),
)
test_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(data_prefix='cls/val', pipeline=test_pipeline, **dataset),
)
test_evaluator = dict(type='Accuracy', topk=(1,))
test_cfg = dict()

# schedule
max_iters = 3000
train_cfg = dict(by_epoch=False, max_iters=max_iters)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1.5e-3, weight_decay=0.05, fused=True))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=max_iters // 15),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=max_iters // 15, end=max_iters),
]
auto_scale_lr = dict(base_batch_size=32)

# runtime
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=1000, by_epoch=False, max_keep_ckpts=2)
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
