# Mask R-CNN on a COCO-format folder of your own: copy this file and edit its first block
# (docs/own_data.md). As it stands it trains on the embedded digits of tools/prepare_digits.py.
_base_ = '../detection/mask-rcnn_vheat-t_fpn_1x_coco.py'

# What you edit
data_root = 'data/digits/scenes/'
train_annotations = 'annotations/instances_train.json'
train_images = 'train/images/'
val_annotations = 'annotations/instances_val.json'
val_images = 'val/images/'
# All names of the json file's categories, in its order.
classes = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']
# None: from random weights.
pretrained = 'checkpoints/vheat-tiny_in1k_512px.pth'
epochs = 12
# Images per GPU; the learning rate follows the number on all GPUs.
batch_size = 2

# What follows from it
model = dict(
    backbone=dict(init_cfg=pretrained and dict(checkpoint=pretrained)),
    roi_head=dict(
        bbox_head=dict(num_classes=len(classes)), mask_head=dict(num_classes=len(classes))
    ),
)
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(
        data_root=data_root,
        metainfo=dict(classes=classes),
        ann_file=train_annotations,
        data_prefix=dict(img=train_images),
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=dict(classes=classes),
        ann_file=val_annotations,
        data_prefix=dict(img=val_images),
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + val_annotations)
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=epochs)
param_scheduler = [
    # One epoch, however short: the 1000 iterations for COCO may be all of a small training.
    dict(type='LinearLR', start_factor=0.001, end=1, convert_to_iter_based=True),
    dict(type='MultiStepLR', end=epochs, milestones=[epochs - epochs // 3, epochs - epochs // 12]),
]
auto_scale_lr = dict(enable=True)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2, save_best='coco/segm_mAP'))
