# The demo's classifier on the cut-outs of tools/prepare_stamps.py.
_base_ = '../demo/vheat-mini_2xb16-700i_digits-64x64.py'

data_root = 'data/stamps/'
classes = ('bird', 'mammal', 'food', 'flower', 'household')
model = dict(data_preprocessor=dict(num_classes=5), head=dict(num_classes=5))
dataset = dict(data_root=data_root, classes=classes)
train_dataloader = dict(dataset=dataset)
test_dataloader = dict(dataset=dataset)
