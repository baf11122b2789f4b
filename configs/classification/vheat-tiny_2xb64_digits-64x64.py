# The ImageNet recipe on the embedded digits of tools/prepare_digits.py: short, and without flips,
# for digits are chiral.
_base_ = './vheat-tiny_16xb128_in1k.py'

classes = tuple('0123456789')
model = dict(backbone=dict(img_size=64), head=dict(num_classes=10))
data_preprocessor = dict(num_classes=10)

load, crop, _, augment, erase, pack = _base_.train_pipeline
crop.update(scale=64, crop_ratio_range=(0.5, 1.0))
train_pipeline = [load, crop, augment, erase, pack]
dataset = dict(_delete_=True, type='CustomDataset', data_root='data/digits/', classes=classes)
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(data_prefix='cls/train', pipeline=train_pipeline, **dataset),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(data_prefix='cls/val', pipeline=[load, pack], **dataset),
)
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=5e-4))
train_cfg = dict(max_epochs=20)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, end=2, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-2,
        begin=2,
        end=20,
        T_max=18,
        convert_to_iter_based=True,
    ),
]
# Twenty epochs have 1700 iterations: the average must follow faster than the full recipe's.
custom_hooks = [dict(type='EMAHook', momentum=5e-3, priority='ABOVE_NORMAL')]
auto_scale_lr = dict(base_batch_size=128)
