# What the segmentors share: the backbone, the data at 512 x 512.
_base_ = ['mmseg::_base_/datasets/ade20k.py', 'mmseg::_base_/default_runtime.py']
custom_imports = dict(imports=['mmvheat'], allow_failed_imports=False)

# What interpolate4downstream.py makes of the ImageNet-1K classifier with --tg_size 512.
pretrained = 'checkpoints/vheat-tiny_in1k_512px.pth'
vheat_tiny = dict(
    _delete_=True,
    type='mmvheat.VHeat',
    arch='tiny',
    img_size=512,
    init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.'),
)
