# A classifier of your own images, a folder a class: copy this file and edit its first block
# (docs/own_data.md). As it stands it trains on the embedded digits of tools/prepare_digits.py.
_base_ = '../classification/vheat-tiny_16xb128_in1k.py'

# What you edit
data_root = 'data/digits/cls/'
train_folder = 'train'
val_folder = 'val'
# Names of the folders in both, in the order of `LC_ALL=C ls`.
classes = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']
# None: from random weights.
pretrained = 'checkpoints/vheat-tiny_in1k_224px.pth'
epochs = 50
# Images per GPU; the learning rate follows the number on all GPUs.
batch_size = 64

# What follows from it
model = dict(
    backbone=dict(
        init_cfg=pretrained and dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.'),
    ),
    head=dict(num_classes=len(classes)),
)
data_preprocessor = dict(num_classes=len(classes))
dataset = dict(_delete_=True, type='CustomDataset', data_root=data_root, classes=classes)
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(data_prefix=train_folder, pipeline=_base_.train_pipeline, **dataset),
)
val_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(data_prefix=val_folder, pipeline=_base_.test_pipeline, **dataset),
)
test_dataloader = val_dataloader
# Top 5 of fewer than five classes cannot be counted.
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=epochs)
warmup = max(1, epochs // 10)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, end=warmup, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-2,
        begin=warmup,
        end=max(epochs, warmup + 1),
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(enable=True)
# Without the average of weights: over 10000 iterations, it is of use in long trainings only.
custom_hooks = []
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2, save_best='accuracy/top1'))
