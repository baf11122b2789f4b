# UperNet on folders of images and masks of your own: copy this file and edit its first block
# (docs/own_data.md). As it stands it trains on the embedded digits of tools/prepare_digits.py.
_base_ = '../segmentation/vheat-t_upernet_8xb2-160k_ade20k-512x512.py'

# What you edit
data_root = 'data/digits/scenes/'
train_images = 'train/images'
train_masks = 'train/masks'
val_images = 'val/images'
val_masks = 'val/masks'
# An image and its mask have the same name but for these endings.
image_suffix = '.png'
mask_suffix = '.png'
# Names of the mask values 0, 1, ...; value 255 is ignored.
classes = ['background', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']
# True: value 0 is ignored too and the names are those of 1, 2, ..., as in ADE20K.
reduce_zero_label = True
# None: from random weights.
pretrained = 'checkpoints/vheat-tiny_in1k_512px.pth'
iterations = 20000
# Images per GPU; the learning rate follows the number on all GPUs.
batch_size = 4

# What follows from it
model = dict(
    backbone=dict(init_cfg=pretrained and dict(checkpoint=pretrained)),
    decode_head=dict(num_classes=len(classes)),
    auxiliary_head=dict(num_classes=len(classes)),
)
# ADE20K's pipelines ignore value 0; without a word of it they do as the data set says.
train_pipeline = _base_.train_pipeline
train_pipeline[1].pop('reduce_zero_label')
test_pipeline = _base_.test_pipeline
test_pipeline[2].pop('reduce_zero_label')
dataset = dict(
    _delete_=True,
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes),
    img_suffix=image_suffix,
    seg_map_suffix=mask_suffix,
    reduce_zero_label=reduce_zero_label,
)
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(
        data_prefix=dict(img_path=train_images, seg_map_path=train_masks),
        pipeline=train_pipeline,
        **dataset,
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path=val_images, seg_map_path=val_masks),
        pipeline=test_pipeline,
        **dataset,
    )
)
test_dataloader = val_dataloader

train_cfg = dict(max_iters=iterations, val_interval=iterations // 10)
warmup = iterations // 20
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, end=warmup),
    dict(type='PolyLR', power=1.0, by_epoch=False, begin=warmup, end=iterations),
]
auto_scale_lr = dict(enable=True)
default_hooks = dict(checkpoint=dict(interval=iterations // 10, max_keep_ckpts=2, save_best='mIoU'))
