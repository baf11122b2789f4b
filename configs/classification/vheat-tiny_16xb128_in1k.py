_base_ = '../_base_/vheat_in1k.py'

model = dict(backbone=dict(arch='tiny', drop_path_rate=0.1))
