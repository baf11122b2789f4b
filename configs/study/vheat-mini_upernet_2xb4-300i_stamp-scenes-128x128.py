# The demo's segmentor on the scenes of tools/prepare_stamps.py.
_base_ = '../demo/vheat-mini_upernet_2xb4-300i_digit-scenes-128x128.py'

scenes = 'data/stamps/scenes/'
metainfo = dict(
    classes=('background', 'bird', 'mammal', 'food', 'flower', 'household'),
    palette=[
        [60, 60, 60],
        [0, 130, 200],
        [245, 130, 48],
        [60, 180, 75],
        [240, 50, 230],
        [255, 225, 25],
    ],
)
model = dict(
    backbone=dict(
        init_cfg=dict(checkpoint='work_dirs/study/vheat-mini_stamps_128px.pth'),
    ),
    decode_head=dict(num_classes=6, loss_decode=dict(class_weight=[0.4] + [1.0] * 5)),
)
dataset = dict(data_root=scenes, metainfo=metainfo)
train_dataloader = dict(dataset=dataset)
test_dataloader = dict(dataset=dataset)
