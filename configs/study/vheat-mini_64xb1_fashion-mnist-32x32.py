# Fashion-MNIST, one epoch of it. A stem over patches of two pixels and three stages: maps of 16, 8
# and 4 positions a side are left, on which the ways to mix positions can differ.
_base_ = ['mmpretrain::_base_/default_runtime.py', '../_base_/vheat_digits.py']

# model
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(num_classes=10, mean=[72.94], std=[90.02], to_rgb=False),
    backbone=dict(
        type='mmvheat.VHeat',
        arch=dict(depths=[1, 2, 1], dims=32, patch_size=2),
        in_channels=1,
        img_size=32,
        out_indices=(2,),
        drop_path_rate=0.05,
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=128,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)

# data: the files of tools/prepare_fashion_mnist.py, 28 x 28, enlarged
data_root = 'data/fashion_mnist/raw'
train_pipeline = [
    dict(type='Resize', scale=32),
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='Resize', scale=32), dict(type='PackInputs')]
dataset = dict(type='FashionMNIST', data_root=data_root, download=False)
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(split='train', pipeline=train_pipeline, **dataset),
)
test_dataloader = dict(
    batch_size=100,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', test_mode=True, pipeline=test_pipeline, **dataset),
)
test_evaluator = dict(type='Accuracy', topk=(1,))
test_cfg = dict()

# schedule
max_iters = 900
train_cfg = dict(by_epoch=False, max_iters=max_iters)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05, fused=True))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=max_iters // 15),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=max_iters // 15, end=max_iters),
]
auto_scale_lr = dict(base_batch_size=64)

# runtime
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=300, by_epoch=False, max_keep_ckpts=1)
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
