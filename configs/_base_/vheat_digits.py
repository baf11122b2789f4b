# What the three demo experiments share: the backbone for two CPU cores, the data, the habits of a
# short run counted in iterations.
custom_imports = dict(imports=['mmvheat'], allow_failed_imports=False)
vheat_mini = dict(
    type='mmvheat.VHeat', arch=dict(depths=[1, 1, 2, 1], dims=32), drop_path_rate=0.05
)
classes = tuple('0123456789')
data_root = 'data/digits/'
# Where `make demo` puts the classifier after fitting it to the scenes' size.
converted = 'work_dirs/demo/pretrained/vheat-mini_digits_128px.pth'
pixel_mean = [123.675, 116.28, 103.53]
pixel_std = [58.395, 57.12, 57.375]
