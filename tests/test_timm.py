"""vHeat as timm's model: what timm asks of its models, and the same numbers as everywhere else."""

import os
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from checkpoint_kinds import detector, folded_as_published, mmengine, mmpretrain, published
from golden import INDEX, golden_arch, golden_npz, golden_tensor
from mmengine.registry import DefaultScope
from safetensors.torch import save_file
from torch import Tensor, nn

from mmvheat.errors import UserError
from mmvheat.models import VHeat

timm = pytest.importorskip('timm')

from timm.models import adapt_input_conv, group_parameters  # noqa: E402
from torchvision.models.feature_extraction import create_feature_extractor  # noqa: E402

import mmvheat.timm  # noqa: E402, F401  registers the models

ROOT = Path(__file__).parents[1]
# vHeat-T, and vHeat-S and B, which have norms behind the branches and layer scales.
NAMES = {'vheat_tiny': 'tiny_like', 'vheat_small': 'base_like', 'vheat_base': 'base_like'}
SIDE, CLASSES = 64, 10
every_model = pytest.mark.parametrize('name', NAMES)
FILES = {
    'published.pth': lambda name: {'model': published(name), 'epoch': 299},
    'published.safetensors': published,
    'converted.pth': lambda name: mmengine(mmpretrain(name)),
    'converted.safetensors': mmpretrain,
}


def create(name: str = 'vheat_tiny', **kwargs) -> nn.Module:
    """A model of timm, shrunken to the golden one, with what is asked for."""
    defaults = dict(arch=golden_arch(NAMES[name]), img_size=SIDE, num_classes=CLASSES)
    return timm.create_model(name, **{**defaults, **kwargs}).eval()


def write(path: Path, kind: str = 'published.pth', name: str = 'vheat_tiny') -> str:
    """Write a checkpoint of a kind into a folder."""
    content = FILES[kind](NAMES[name])
    if kind.endswith('.safetensors'):
        save_file({key: value.contiguous() for key, value in content.items()}, path / kind)
    else:
        torch.save(content, path / kind)
    return str(path / kind)


def pretrained(file: str, classes: int = CLASSES) -> dict:
    """Arguments that load a file instead of the published address."""
    return dict(pretrained=True, pretrained_cfg_overlay=dict(file=file, num_classes=classes))


def images(height: int = SIDE, width: int = SIDE, channels: int = 3, batch: int = 2) -> Tensor:
    return golden_tensor(1, (batch, channels, height, width))


def assert_equal(result: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    atol = tolerance * max(1, expected.abs().max().item())
    torch.testing.assert_close(result, expected, atol=atol, rtol=0)


@pytest.mark.parametrize('way', ['file', 'checkpoint_path'])
@pytest.mark.parametrize('kind', FILES)
@every_model
@torch.no_grad()
def test_a_file_gives_the_published_outputs(name, kind, way, tmp_path):
    file = write(tmp_path, kind, name)
    model = create(name, **(pretrained(file) if way == 'file' else dict(checkpoint_path=file)))
    golden = golden_npz(NAMES[name])
    assert_equal(model(images()), torch.as_tensor(golden['cls/logits']), 1e-4)
    raw = model.backbone.raw_maps(images(), (3,))[3].permute(0, 3, 1, 2)
    assert_equal(raw, torch.as_tensor(golden['cls/last_map']), 1e-4)


@every_model
@torch.no_grad()
def test_mmpretrain_and_timm_give_the_same_for_one_file(name, tmp_path):
    from mmengine.runner import load_checkpoint
    from mmpretrain.registry import MODELS

    backbone = dict(type='mmvheat.VHeat', arch=golden_arch(NAMES[name]), img_size=SIDE)
    config = dict(
        type='ImageClassifier',
        backbone=dict(backbone, out_indices=(3,)),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=8 * golden_width(name)),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        classifier = MODELS.build(config).eval()
    file = write(tmp_path, name=name)
    load_checkpoint(classifier, file, strict=True)
    x = images(96, 77)
    assert_equal(create(name, checkpoint_path=file)(x), classifier(x))


def golden_width(name: str) -> int:
    return INDEX[NAMES[name]]['kwargs']['dims']


@pytest.mark.parametrize('arch', ['tiny', 'small', 'base'])
def test_a_name_is_its_arch_and_knows_the_published_file(arch):
    with torch.device('meta'):
        model = timm.create_model(f'vheat_{arch}')
        assert model.backbone.arch == VHeat(arch).arch
    url = timm.get_pretrained_cfg(f'vheat_{arch}.in1k').url
    metafile = ROOT / 'configs' / 'classification' / 'metafile.yml'
    assert re.search(rf'^    Weights: {re.escape(url)}$', metafile.read_text(), re.MULTILINE)
    assert f'vheat_{arch}.in1k' in timm.list_models('vheat*', pretrained=True)
    assert f'vheat_{arch}' in timm.list_models(module='vheat')


@torch.no_grad()
def test_the_isotropic_model_has_one_stage():
    name = 'vheat_isotropic_small'
    with torch.device('meta'):
        assert timm.create_model(name).backbone.arch == VHeat('isotropic_small', out_indices=0).arch
        (expected,) = timm.create_model(name, num_classes=0, global_pool='')(
            torch.empty(1, 3, 224, 224)
        )
    cfg = timm.get_pretrained_cfg(name)
    assert expected.shape[1:] == cfg.pool_size and not cfg.has_weights

    tiny = dict(arch=dict(depths=(2,), dims=8, patch_size=16), img_size=SIDE, num_classes=CLASSES)
    model = timm.create_model(name, **tiny).eval()
    features = timm.create_model(name, features_only=True, **tiny).eval()
    features.model.load_state_dict(model.state_dict(), strict=False)
    x = images(77, 101)
    (found,) = features(x)
    assert (features.feature_info.channels(), features.feature_info.reduction()) == ([8], [16])
    assert_equal(found, model.backbone.raw_maps(x, (0,))[0].permute(0, 3, 1, 2))
    assert found.shape == (2, 8, 5, 7) and model(x).shape == (2, CLASSES)
    with pytest.raises(RuntimeError, match='No pretrained weights exist'):
        timm.create_model(name, pretrained=True)


@every_model
@torch.no_grad()
def test_the_head_can_be_taken_apart(name):
    model = create(name)
    x = images(96, 80)
    maps = model.forward_features(x)
    assert maps.shape == (2, model.num_features, 3, 3)
    pooled = model.forward_head(maps, pre_logits=True)
    assert_equal(pooled, maps.mean((2, 3)))
    assert_equal(model(x), pooled @ model.get_classifier().weight.T + model.get_classifier().bias)
    model.reset_classifier(0)
    assert_equal(model(x), pooled)
    model.reset_classifier(0, '')
    assert_equal(model(x), maps)
    model.reset_classifier(7, 'catavgmax')
    assert model(x).shape == (2, 7) and model.head_hidden_size == 2 * model.num_features
    assert_equal(model.forward_head(maps, pre_logits=True)[:, : model.num_features], pooled)


@pytest.mark.parametrize('pool', ['avg', 'max', 'avgmax', 'catavgmax', ''])
@torch.no_grad()
def test_pooling_is_chosen_when_it_is_built(pool):
    model = create(global_pool=pool, num_classes=0)
    maps = model.forward_features(images())
    expected = {
        'avg': maps.mean((2, 3)),
        'max': maps.amax((2, 3)),
        'avgmax': (maps.mean((2, 3)) + maps.amax((2, 3))) / 2,
        'catavgmax': torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1),
        '': maps,
    }
    assert_equal(model(images()), expected[pool])


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1,), (-1, 0), 2])
@every_model
@torch.no_grad()
def test_features_are_the_raw_maps_of_the_stages(name, out_indices):
    model = create(name)
    features = create(name, features_only=True, out_indices=out_indices)
    features.model.load_state_dict(model.state_dict(), strict=False)
    x = images(77, 101)
    stages = [2, 3] if out_indices == 2 else [i % 4 for i in out_indices]
    raw = model.backbone.raw_maps(x, range(4))
    maps = features(x)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (golden_width(name) * 2**i, -(-77 // 2 ** (2 + i)), -(-101 // 2 ** (2 + i))) for i in stages
    ]
    for i, result in zip(stages, maps, strict=True):
        assert_equal(result, raw[i].permute(0, 3, 1, 2))
    assert features.feature_info.channels() == [m.shape[1] for m in maps]
    assert features.feature_info.reduction() == [2 ** (2 + i) for i in stages]


@every_model
def test_pruned_features_train_whole(name):
    """No parameter is left that the maps do not depend on: nothing breaks data parallelism."""
    features = create(name, features_only=True, out_indices=(0, 2)).train()
    sum(m.square().sum() for m in features(images())).backward()
    assert all(parameter.grad is not None for parameter in features.parameters())


@pytest.mark.parametrize('stop_early', [False, True])
@pytest.mark.parametrize('norm', [False, True])
@torch.no_grad()
def test_intermediates(norm, stop_early):
    model, x = create(), images(64, 96)
    raw = model.backbone.raw_maps(x, range(4))
    final = model.forward_features(x)
    result, maps = model.forward_intermediates(x, norm=norm, stop_early=stop_early)
    assert_equal(result, final)
    for i in range(3):
        assert_equal(maps[i], raw[i].permute(0, 3, 1, 2))
    assert_equal(maps[3], final if norm else raw[3].permute(0, 3, 1, 2))
    nhwc = model.forward_intermediates(
        x, [0, 3], norm, stop_early, output_fmt='NHWC', intermediates_only=True
    )
    for ours, theirs in zip(nhwc, (maps[0], maps[3]), strict=True):
        assert_equal(ours.permute(0, 3, 1, 2), theirs)
    result, maps = model.forward_intermediates(x, [1], norm, stop_early)
    assert_equal(result, raw[1].permute(0, 3, 1, 2) if stop_early else final)


@pytest.mark.parametrize('keep', [1, 2, 4])
@torch.no_grad()
def test_pruning_changes_no_map(keep):
    model, x = create(), images()
    expected = model.forward_intermediates(x, range(keep), intermediates_only=True)
    assert model.prune_intermediate_layers(range(keep), prune_norm=True) == [*range(keep)]
    found = model.forward_intermediates(x, range(keep), norm=True, intermediates_only=True)
    for result, wanted in zip(found, expected, strict=True):
        assert_equal(result, wanted)
    assert model.num_classes == 0
    assert_equal(model(x), expected[-1])


@every_model
def test_checkpointing_changes_no_gradient(name):
    grads = []
    for enable in (False, True):
        torch.manual_seed(0)
        model = create(name, drop_path_rate=0.0).train()
        model.set_grad_checkpointing(enable)
        model(images()).square().sum().backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*grads, strict=True):
        assert_equal(checkpointed, plain)


@every_model
def test_groups_are_the_layers_of_layer_decay(name):
    model = create(name)
    found = group_parameters(model, model.group_matcher(), reverse=True)
    wanted = {
        key: model.backbone.get_layer_depth(key, 'backbone.')[0]
        for key, _ in model.named_parameters()
    }
    assert found == wanted
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert {coarse[f'backbone.freq_embed.{i}'] for i in range(4)} == {1, 2, 3, 4}
    assert model.no_weight_decay() == set()


@pytest.mark.parametrize('channels', [1, 4, 12])
@pytest.mark.parametrize('way', ['file', 'checkpoint_path'])
def test_other_input_channels_are_adapted_as_timm_does(channels, way, tmp_path):
    file = write(tmp_path)
    load = pretrained(file) if way == 'file' else dict(checkpoint_path=file)
    model = create(in_chans=channels, **load)
    weight = published()['patch_embed.conv1.weight']
    expected = adapt_input_conv(channels, weight.clone())
    torch.testing.assert_close(model.backbone.patch_embed.conv1.weight.detach(), expected)
    assert model(images(channels=channels)).shape == (2, CLASSES)


@torch.no_grad()
def test_another_size_and_other_classes_than_the_files(tmp_path):
    file = write(tmp_path)
    model = create(img_size=(96, 128), num_classes=3, **pretrained(file))
    assert tuple(model.backbone.freq_embed[0].shape[:2]) == (24, 32)
    assert model(images()).shape == (2, 3)
    same = create(img_size=(96, 128), **pretrained(file))
    x = images(96, 128)
    assert_equal(model.forward_features(x), same.forward_features(x))
    assert_equal(same(x), create(checkpoint_path=file)(x))


def test_features_of_a_file(tmp_path):
    file = write(tmp_path)
    features = create(features_only=True, out_indices=(1, 2), **pretrained(file))
    whole = create(checkpoint_path=file)
    for ours, theirs in zip(
        features(images()), whole.backbone.raw_maps(images(), (1, 2)).values(), strict=True
    ):
        assert_equal(ours, theirs.permute(0, 3, 1, 2))


@every_model
@torch.no_grad()
def test_fx_and_trace_follow_the_model(name):
    model, x = create(name), images(64, 96)
    stages = {f'backbone.layers.{i}': str(i) for i in range(4)}
    traced = create_feature_extractor(
        model,
        {**stages, 'head.fc': 'logits'},
        tracer_kwargs=dict(
            leaf_modules=timm.models.get_notrace_modules(), param_shapes_constant=True
        ),
    )
    outs = traced(x)
    assert_equal(outs['logits'], model(x))
    for i, raw in model.backbone.raw_maps(x, range(4)).items():
        # A stage's last node is the downsampling behind it.
        assert_equal(outs[str(i)], raw if i == 3 else model.backbone.layers[i].downsample(raw))
    assert_equal(torch.jit.trace(model, x)(x), model(x))


def test_a_trained_model_is_a_checkpoint_for_openmmlab(tmp_path):
    model = create()
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'timm.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'timm.pth'), prefix='backbone.')
    backbone = VHeat(golden_arch('tiny_like'), img_size=SIDE, out_indices=(3,), init_cfg=init)
    backbone.init_weights()
    assert_equal(backbone.eval()(images())[0], model.forward_features(images()))


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(features_only=True, out_indices=(1, 4)), r'stages 0 to 3, got \(1, 4\)'),
        (dict(features_only=True, out_indices=5), 'stages 0 to 3, got 5'),
        (dict(img_size=0), 'img_size is a positive integer or two'),
        (dict(in_chans=0), 'in_channels is a positive integer'),
        (dict(drop_path_rate=1), r'drop_path_rate is a number in \[0, 1\)'),
        (dict(arch='huge'), "unknown arch 'huge'"),
        (dict(num_classes=-1), 'num_classes is a number of classes from 0, got -1'),
    ],
)
def test_wrong_arguments_are_named(kwargs, message):
    with pytest.raises(UserError, match=message):
        create(**kwargs)


def test_an_unknown_format_is_named():
    with pytest.raises(UserError, match="output_fmt is 'NCHW' or 'NHWC', got 'NLC'"):
        create().forward_intermediates(images(), output_fmt='NLC')


def test_a_wrong_tag_is_named():
    with pytest.raises(RuntimeError, match='Invalid pretrained tag .in22k. for vheat_tiny'):
        timm.create_model('vheat_tiny.in22k', pretrained=True)


RESNET = {'conv1.weight': torch.ones(2, 3, 3, 3), 'fc.weight': torch.ones(10, 2)}
WRONG = {
    'another arch': (
        published('base_like'),
        'the checkpoint is a vHeat of .* and the model a vHeat',
    ),
    'another model': (RESNET, r'another model than vHeat: no freq_embed'),
    'folded': ({'model': folded_as_published()}, 'folded for inference'),
    'nothing': ({'epoch': 1}, 'no state dict|another model than vHeat'),
}


@pytest.mark.parametrize('way', ['file', 'checkpoint_path'])
@pytest.mark.parametrize('kind', WRONG)
def test_a_file_of_something_else_is_refused_in_one_line(kind, way, tmp_path):
    content, message = WRONG[kind]
    file = str(tmp_path / 'wrong.pth')
    torch.save(content, file)
    load = pretrained(file) if way == 'file' else dict(checkpoint_path=file)
    with pytest.raises(UserError, match=message) as caught:
        create(**load)
    assert '\n' not in str(caught.value)


def test_weights_of_a_detector_are_taken_where_they_are_asked_for(tmp_path):
    """Its backbone fits; its norms of maps have no place here, and its heads are left to torch."""
    model = create()
    found = model.load_state_dict(detector(), strict=False)
    assert found.missing_keys == ['head.fc.weight', 'head.fc.bias']
    assert not [name for name in found.unexpected_keys if name.startswith('backbone.')]


def test_loading_touches_no_state_dict_of_the_callers():
    given = OrderedDict(published())
    before = [*given]
    create().load_state_dict(given)
    assert [*given] == before


def test_a_script_finds_the_models(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text('import sys, timm\nprint(sys.argv[1:], timm.is_model("vheat_tiny"))\n')
    command = [sys.executable, '-m', 'mmvheat.timm', str(script), '--an', 'option']
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "['--an', 'option'] True"


def test_without_timm_one_line_says_what_to_install():
    hidden = 'import sys; sys.modules["timm"] = None; import mmvheat.timm'
    done = subprocess.run(
        [sys.executable, '-c', hidden], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        'ModuleNotFoundError: mmvheat.timm needs timm, which is not installed: '
        'pip install "mmvheat[timm]"'
    )


def python_blocks() -> list:
    """The examples of docs/timm.md that need no internet."""
    text = (ROOT / 'docs' / 'timm.md').read_text()
    blocks = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
    return [
        pytest.param(block, id=str(number))
        for number, block in enumerate(blocks)
        if not block.startswith('# needs the internet')
    ]


@pytest.fixture(scope='module')
def transformers(tmp_path_factory) -> str:
    """A folder with transformers in it."""
    folder = tmp_path_factory.mktemp('transformers')
    needs = ROOT / 'tests' / 'data' / 'transformers.txt'
    options = ['--quiet', '--no-deps', '--only-binary', ':all:', '--require-hashes']
    command = [sys.executable, '-m', 'pip', 'install', *options]
    command += ['--target', str(folder), '-r', str(needs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f'transformers cannot be installed here: {done.stderr.strip()[-200:]}')
    return str(folder)


@pytest.mark.parametrize('block', python_blocks())
@torch.no_grad()
def test_the_examples_of_the_page_run(block, request):
    names = set(re.findall(r'^(?:from|import) (\w+)', block, re.MULTILINE))
    if 'transformers' in names:
        path = os.pathsep.join([request.getfixturevalue('transformers'), *sys.path])
        env = {**os.environ, 'PYTHONPATH': path, 'HF_HUB_OFFLINE': '1'}
        subprocess.run([sys.executable, '-W', 'ignore', '-c', block], env=env, check=True)
        return
    for name in names:
        pytest.importorskip(name)
    exec(compile(block, 'docs/timm.md', 'exec'), {'__name__': '__example__'})
