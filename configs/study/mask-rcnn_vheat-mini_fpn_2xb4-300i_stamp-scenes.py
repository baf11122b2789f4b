# The demo's detector on the scenes of tools/prepare_stamps.py.
_base_ = '../demo/mask-rcnn_vheat-mini_fpn_2xb4-300i_digit-scenes.py'

scenes = 'data/stamps/scenes/'
metainfo = dict(classes=('bird', 'mammal', 'food', 'flower', 'household'))
model = dict(
    backbone=dict(
        init_cfg=dict(checkpoint='work_dirs/study/vheat-mini_stamps_128px.pth'),
    ),
    roi_head=dict(bbox_head=dict(num_classes=5), mask_head=dict(num_classes=5)),
)
dataset = dict(data_root=scenes, metainfo=metainfo)
train_dataloader = dict(dataset=dataset)
test_dataloader = dict(dataset=dataset)
test_evaluator = dict(ann_file=scenes + 'annotations/instances_val.json')
