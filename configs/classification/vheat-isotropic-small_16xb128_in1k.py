# DeiT-S's size (arXiv 2012.12877) with heat conduction in the place of attention. The recipe is
# vHeat-T's: the paper's for isotropic models is not known here.
_base_ = '../_base_/vheat_in1k.py'

model = dict(
    backbone=dict(arch='isotropic_small', out_indices=(0,), drop_path_rate=0.1),
    head=dict(in_channels=384),
)
