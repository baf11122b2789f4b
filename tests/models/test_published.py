"""MMDET_VHEAT and MMSEG_VHEAT: the published configs, inherited from Swin's, run unchanged."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from golden import golden_state
from mmengine.config import Config

from mmvheat.models import MMDET_VHEAT, MMSEG_VHEAT, VHeat
from mmvheat.registry import MODELS

# What the published detection and segmentation configs say beyond Swin's.
SMALL = dict(depths=(2, 2, 18, 2), dims=96, post_norm=True, layer_scale=1e-5, drop_path_rate=0.3)
CONFIGS = {
    'detection_tiny': dict(
        type='MMDET_VHEAT', drop_path_rate=0.1, post_norm=False, depths=(2, 2, 6, 2), dims=96
    ),
    'detection_small': dict(SMALL, type='MMDET_VHEAT'),
    'detection_base': dict(SMALL, type='MMDET_VHEAT', dims=128, drop_path_rate=0.5),
    'detection_tiny_3x': dict(
        type='MMDET_VHEAT', drop_path_rate=0.2, post_norm=False, depths=(2, 2, 6, 2), dims=96
    ),
    'detection_small_3x': dict(SMALL, type='MMDET_VHEAT', drop_path_rate=0.4),
    'segmentation_tiny': dict(
        type='MMSEG_VHEAT', post_norm=False, depths=(2, 2, 6, 2), dims=96, drop_path_rate=0.3
    ),
    'segmentation_small': dict(SMALL, type='MMSEG_VHEAT', drop_path_rate=0.4),
    'segmentation_base': dict(SMALL, type='MMSEG_VHEAT', dims=128, drop_path_rate=0.5),
}
BASES = {
    'detection': ('mmdet', 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'),
    'segmentation': (
        'mmseg',
        'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
    ),
}
TINY_LIKE = dict(depths=[1, 1, 2, 1], dims=8, post_norm=False, img_size=64)


def swin_config(task: str) -> dict:
    """The Swin Transformer of the library's own config, which the published ones inherit."""
    library, path = BASES[task]
    folder = Path(find_spec(library).submodule_search_locations[0]) / '.mim' / 'configs'
    return dict(Config.fromfile(folder / path).model.backbone)


@pytest.mark.parametrize('name', CONFIGS)
def test_a_published_config_builds_what_it_says(name):
    task, twin, *schedule = name.split('_')
    own = dict(CONFIGS[name], out_indices=(0, 1, 2, 3), pretrained='path/to/pth')
    # The tiny 3x detector is the one that names no size.
    size = 224 if (twin, schedule) == ('tiny', ['3x']) else 512
    if size != 224:
        own['img_size'] = size
    config = dict(swin_config(task), **own)
    assert 'window_size' in config and 'init_cfg' in config, 'Swin left its arguments behind'
    with torch.device('meta'):
        model = MODELS.build(config)
    with torch.device('meta'):
        expected = VHeat(twin, img_size=size, drop_path_rate=config['drop_path_rate'])
    assert isinstance(model, VHeat)
    assert model.arch == expected.arch
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in expected.state_dict().items()
    }
    last = model.layers[3][1].drop_path.drop_prob
    assert last == pytest.approx(config['drop_path_rate'])
    assert not model.layers[0].with_cp and not model.init_cfg


@pytest.mark.parametrize('cls', [MMDET_VHEAT, MMSEG_VHEAT])
def test_published_arguments_reach_the_backbone(cls):
    model = cls(
        depths=(1, 1), dims=(6, 10), mlp_ratio=2, layer_scale=0.3, use_checkpoint=True,
        with_cp=False, out_indices=(1,), img_size=32, in_chans=1, drop_path_rate=0.2,
    )  # fmt: skip
    assert model.arch.post_norm, 'the published default'
    assert model.arch.mlp_ratio == 2 and model.arch.layer_scale_init_value == 0.3
    assert all(stage.with_cp for stage in model.layers)
    assert model.patch_embed.conv1.in_channels == 1
    assert model(torch.randn(1, 1, 20, 9))[0].shape == (1, 10, 3, 2)


@pytest.mark.parametrize('cls', [MMDET_VHEAT, MMSEG_VHEAT])
def test_an_unknown_argument_is_refused(cls):
    with pytest.raises(TypeError, match="unexpected keyword argument 'depth'"):
        cls(depth=3)


@pytest.mark.parametrize('source', ['published', 'published_ema', 'converted'])
def test_pretrained_weights_are_loaded(source, tmp_path):
    state = {k: v for k, v in golden_state('tiny_like').items() if not k.startswith('outnorm')}
    backbone = {k: v for k, v in state.items() if not k.startswith('classifier.')}
    content = {
        'published': {'model': state, 'epoch': 300},
        'published_ema': {'model_ema': state},
        'converted': {'state_dict': {f'backbone.{k}': v for k, v in backbone.items()}, 'meta': {}},
    }[source]
    torch.save(content, tmp_path / 'vheat.pth')
    model = MMDET_VHEAT(**TINY_LIKE, pretrained=str(tmp_path / 'vheat.pth'))
    assert not torch.equal(model.freq_embed[0], backbone['freq_embed.0']), 'not before init_weights'
    model.init_weights()
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in backbone.items())
    assert (loaded['outnorm0.weight'] == 1).all()


@pytest.mark.parametrize('pretrained', [None, ''])
def test_no_pretrained_weights(pretrained):
    model = MMSEG_VHEAT(**TINY_LIKE, pretrained=pretrained)
    before = model.freq_embed[0].clone()
    model.init_weights()
    assert torch.equal(model.freq_embed[0], before)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(depths=[1, 1, 3, 1]), r'no layers\.2\.2\.\S+ and \d+ more'),
        (dict(depths=[1, 1, 1, 1]), r'(no|unknown) layers\.2\.\S+ and \d+ more|size mismatch'),
        (dict(dims=12), 'none of the weights matches .*of another shape'),
        (dict(layer_scale=1.0), r'no layers\.0\.0\.gamma1 and 9 more'),
    ],
)
def test_pretrained_weights_of_another_arch_are_refused(arguments, message, tmp_path):
    path = tmp_path / 'vheat.pth'
    torch.save({'model': golden_state('tiny_like')}, path)
    model = MMDET_VHEAT(**dict(TINY_LIKE, **arguments), pretrained=str(path))
    with pytest.raises(ValueError, match=message) as error:
        model.init_weights()
    assert str(path) in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('content', [None, {'model': {'conv.weight': torch.zeros(1)}}, [1, 2]])
def test_a_pretrained_file_that_is_none_gives_one_clear_line(content, tmp_path):
    path = tmp_path / 'vheat.pth'
    if content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=r'^pretrained=.*vheat\.pth') as error:
        MMSEG_VHEAT(**TINY_LIKE, pretrained=str(path)).init_weights()
    assert '\n' not in str(error.value)
