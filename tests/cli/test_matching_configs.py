"""Which configs a checkpoint fits; tests/configs holds the table of them to the configs."""

from pathlib import Path

import pytest
import torch
from checkpoint_kinds import detector, mmpretrain, published, wrapped

from mmvheat.checkpoint import convert_state_dict, describe_checkpoint, fold_state_dict
from mmvheat.checkpoint.names import backbone_shapes
from mmvheat.cli.matching_configs import CONFIGS, config_folder, find_uses
from mmvheat.models import PUBLISHED_CLASSIFIERS
from mmvheat.models.arch import ARCHS, VHeatArch, arch_name

ROOT = Path(__file__).parents[2]


def state_of(arch: VHeatArch, size: int = 224, **heads: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """A state dict of an arch, without values: memory that is not touched costs nothing."""
    grids = tuple((size >> (2 + i), size >> (2 + i), dim) for i, dim in enumerate(arch.dims))
    hidden = tuple(int(arch.mlp_ratio * dim) for dim in arch.dims)
    scaled = arch.layer_scale_init_value is not None
    shapes = backbone_shapes(arch.depths, grids, hidden, scaled, 3, folded=False)
    shapes |= {name.replace('__', '.'): shape for name, shape in heads.items()}
    return {name: torch.empty(shape) for name, shape in shapes.items()}


def classifier(arch: VHeatArch, classes: int) -> dict[str, torch.Tensor]:
    width = arch.dims[-1]
    norms = {f'classifier__0__{part}': (width,) for part in ('weight', 'bias')}
    linear = {'classifier__3__weight': (classes, width), 'classifier__3__bias': (classes,)}
    return {'model': state_of(arch, **norms, **linear)}


def test_the_table_names_all_configs():
    files = {str(path.relative_to(ROOT)) for path in ROOT.glob('configs/*/*.py')}
    assert set(CONFIGS) == {file for file in files if '/_base_/' not in file}
    assert config_folder() == ROOT / 'configs'


@pytest.mark.parametrize('name', PUBLISHED_CLASSIFIERS)
def test_a_published_classifier(name):
    found = describe_checkpoint(classifier(ARCHS[name], 1000))
    assert arch_name(found.backbone) == name and found.backbone.unknown == ()
    uses = find_uses(found, 'a b.pth')
    assert uses[0].configs == (f'configs/classification/vheat-{name}_16xb128_in1k.py',)
    assert uses[0].command == "bash tools/dist_test.sh CONFIG 'a b.pth' 1"
    pretraining = [
        use for use in uses if use.command.startswith('python interpolate4downstream.py')
    ]
    assert [use.command for use in pretraining] == [
        "python interpolate4downstream.py --pt_pth 'a b.pth' --pt_size 224 "
        f'--tg_pth checkpoints/vheat-{name}_in1k_512px.pth --tg_size 512'
    ]
    configs = {config for use in uses for config in use.configs}
    ours = {config for config, facts in CONFIGS.items() if facts.arch == ARCHS[name]}
    assert configs == ours
    # Those that want the size it has take it as it is.
    ready = [use for use in uses if 'init_cfg.checkpoint=' in use.command]
    assert {CONFIGS[c].img_size for use in ready for c in use.configs} <= {224}
    assert bool(ready) == (name == 'tiny')


def test_other_classes_are_another_line():
    uses = find_uses(describe_checkpoint(classifier(ARCHS['tiny'], 10)), 'x.pth')
    purposes = {use.purpose: use.configs for use in uses}
    assert 'configs/own_data/vheat-tiny_imagefolder.py' in purposes['test']
    anew = purposes['train on, the layers of the classes anew']
    assert anew == ('configs/classification/vheat-tiny_16xb128_in1k.py',)


def test_a_converted_backbone_is_named_to_init_cfg():
    state, _ = convert_state_dict(classifier(ARCHS['base'], 1000)['model'], 224, 512)
    uses = find_uses(describe_checkpoint({'state_dict': state}), 'x.pth')
    assert [use.command.split()[-1] for use in uses] == ['model.backbone.init_cfg.checkpoint=x.pth']


def test_wrappers_and_other_entries_are_taken_out_first():
    checkpoint = {'state_dict': wrapped(mmpretrain(), '_orig_mod.')}
    (use,) = find_uses(describe_checkpoint(checkpoint), 'x.pth')
    assert use.command == 'python -m mmvheat.checkpoint convert x.pth OUT --to mmpretrain'
    found = describe_checkpoint({'model': detector(), 'model_ema': detector()}, 'model_ema')
    (use,) = find_uses(found, 'x.pth', 'model_ema')
    assert use.command.endswith('OUT --to downstream --key model_ema')


def test_a_folded_file_serves_tests_alone():
    arch = CONFIGS['configs/demo/vheat-mini_2xb16-3000i_digits-64x64.py'].arch
    checkpoint = classifier(arch, 10)
    with torch.no_grad():
        for tensor in checkpoint['model'].values():
            tensor.zero_()
    folded, _ = convert_state_dict(checkpoint['model'], 224, 64, task='classification')
    uses = find_uses(describe_checkpoint(fold_state_dict(folded, 64)), 'x.pth')
    assert [use.purpose for use in uses] == ['test']
    assert 'inference_form=True "model.backbone.img_size=(64,64)"' in uses[0].command


@pytest.mark.parametrize('broken', ['incomplete', 'other arch', 'no vHeat'])
def test_what_fits_nothing(broken):
    state = published()
    if broken == 'incomplete':
        state = classifier(ARCHS['tiny'], 1000)['model']
        del state['layers.2.3.norm1.bias']
    elif broken == 'no vHeat':
        state = {'conv1.weight': torch.ones(1)}
    assert find_uses(describe_checkpoint(state), 'x.pth') == []
