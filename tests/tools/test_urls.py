"""What comes from an address is read like every file: it runs no code, and a good one loads.

Every way by which a user names a checkpoint is here, with a canary: a file that the hostile one
would make if it was unpickled freely, as torch.hub does it.
"""

import os
import shutil
from pathlib import Path

import pytest
import torch
from in_process import run_script
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from web import Web, hostile_pickle, serve

from mmvheat.engine import ExactResumeHook
from mmvheat.models import VHeat

pytest.importorskip('mmcv')
CONFIGS = Path(__file__).parent / 'configs'
LIBRARIES = ('classification', 'detection', 'segmentation')
SHORT = (
    'train_cfg.val_interval=9 val_cfg=None val_dataloader=None val_evaluator=None '
    'train_dataloader.num_workers=0'
)
BACKBONE = 'model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.prefix=backbone.'


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / 'code-was-run'


@pytest.fixture
def web(tmp_path: Path, canary: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Web:
    """A folder with the configs, and a server that has the hostile file."""
    folder = tmp_path / 'here'
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name, value in dict(
        LOCAL_RANK='0', TINY_DATA=str(tiny_data), TORCH_HOME=str(tmp_path / 'home'),
        no_proxy='127.0.0.1', CUDA_VISIBLE_DEVICES='-1',
    ).items():  # fmt: skip
        monkeypatch.setenv(name, value)
    for name in LIBRARIES:
        shutil.copy(CONFIGS / f'{name}.py', folder)
    # A backbone of the published code, which reads its weights itself.
    Path('published.py').write_text(
        "_base_ = 'segmentation.py'\n"
        "model = dict(backbone=dict(_delete_=True, type='MMSEG_VHEAT', depths=[1, 1, 1, 1],\n"
        "             dims=8, post_norm=False, out_indices=(3,), img_size=64, pretrained=''))\n"
    )
    with serve() as web:
        web.files['evil.pth'] = hostile_pickle(canary)
        yield web


def _build(library: str, seed: int = 3) -> torch.nn.Module:
    cfg = Config.fromfile(f'{library}.py')
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model)


def _serve_weights(web: Web, library: str, **more: object) -> torch.nn.Module:
    model = _build(library)
    torch.save({'state_dict': model.state_dict(), 'meta': {}, **more}, 'saved')
    web.files['good.pth'] = Path('saved').read_bytes()
    Path('saved').unlink()
    return model


def _run(tool: str, command: str) -> int:
    try:
        return run_script(tool, *command.split())
    except SystemExit as stop:
        return stop.code


def _files() -> set[Path]:
    return {path for path in Path().rglob('*') if '__pycache__' not in path.parts}


COMMANDS = {
    'test': ('tools/test.py', 'segmentation.py {}'),
    'test with TTA': ('tools/test.py', 'segmentation.py {} --tta'),
    'load_from': ('tools/train.py', 'segmentation.py --cfg-options load_from={}'),
    'resume': ('tools/train.py', 'segmentation.py --resume {}'),
    'init_cfg': (
        'tools/train.py',
        'segmentation.py --cfg-options ' + BACKBONE + ' model.backbone.init_cfg.checkpoint={}',
    ),
    'init_cfg of the whole model': (
        'tools/train.py',
        'segmentation.py --cfg-options model.init_cfg.type=Pretrained model.init_cfg.checkpoint={}',
    ),
    'pretrained': ('tools/train.py', 'published.py --cfg-options model.backbone.pretrained={}'),
    'demo_image': ('tools/demo_image.py', '{image} segmentation.py {}'),
    'convert': (
        'interpolate4downstream.py',
        '--pt_pth {} --pt_size 64 --tg_pth out.pth --tg_size 96',
    ),
    'fold': ('tools/fold_for_inference.py', '{} out.pth --size 64'),
    'inspect': ('mmvheat/checkpoint/__main__.py', 'inspect {}'),
    'change form': ('mmvheat/checkpoint/__main__.py', 'convert {} out.pth --to downstream'),
}


@pytest.mark.parametrize('entry', COMMANDS)
@pytest.mark.parametrize('name', ['evil.pth', 'gone.pth'])
def test_a_command_runs_no_code(entry, name, web, canary, tiny_data, capfd):
    tool, command = COMMANDS[entry]
    before = _files()
    image = next(iter(sorted((tiny_data / 'scenes' / 'val').glob('*.png'))))
    capfd.readouterr()
    assert _run(tool, command.format(web.url(name), image=image)) == 2
    lines = capfd.readouterr().err.splitlines()
    (line,) = [line for line in lines if line.startswith(('error', 'Traceback'))]
    assert ('could run code' if name == 'evil.pth' else 'answers 404') in line
    assert name in line and not canary.exists()
    # What is not the backbone's init_cfg is read by the model, when the Runner has begun its logs.
    late = entry in ('init_cfg of the whole model', 'pretrained')
    made = {path for path in _files() - before if not late or 'work_dirs' not in path.parts}
    assert made == set() and web.asked == [name]


def _det_inferencer(config: str, url: str) -> torch.nn.Module:
    from mmdet.apis import DetInferencer

    return DetInferencer(config, url, device='cpu').model


def _init_detector(config: str, url: str) -> torch.nn.Module:
    from mmdet.apis import init_detector

    return init_detector(config, url, device='cpu')


def _seg_inferencer(config: str, url: str) -> torch.nn.Module:
    from mmseg.apis import MMSegInferencer

    return MMSegInferencer(config, url, device='cpu').model


def _init_model(config: str, url: str) -> torch.nn.Module:
    from mmseg.apis import init_model

    return init_model(config, url, device='cpu')


def _cls_inferencer(config: str, url: str) -> torch.nn.Module:
    from mmpretrain import ImageClassificationInferencer

    return ImageClassificationInferencer(config, pretrained=url, device='cpu').model


def _get_model(config: str, url: str) -> torch.nn.Module:
    from mmpretrain import get_model

    return get_model(config, pretrained=url)


CALLS = {
    _det_inferencer: 'detection',
    _init_detector: 'detection',
    _seg_inferencer: 'segmentation',
    _init_model: 'segmentation',
    _cls_inferencer: 'classification',
    _get_model: 'classification',
}


@pytest.mark.parametrize(('call', 'library'), CALLS.items())
def test_a_library_runs_no_code(call, library, web, canary):
    with pytest.raises(ValueError, match='evil.pth was downloaded, but .* could run code'):
        call(f'{library}.py', web.url('evil.pth'))
    assert not canary.exists()


@pytest.mark.parametrize(('call', 'library'), CALLS.items())
def test_a_library_loads_a_good_file(call, library, web):
    meta = dict(classes=('a', 'b', 'c'), palette=[[0, 0, 0], [250, 0, 0], [0, 250, 0]])
    saved = _serve_weights(web, library, meta=dict(dataset_meta=meta)).state_dict()
    loaded = call(f'{library}.py', web.url('good.pth')).state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())


def test_a_backbone_of_its_own(web, canary):
    """``init_weights`` and mmengine's function, without any tool."""
    from mmengine.runner import load_checkpoint

    arch = dict(depths=[1, 1, 1, 1], dims=8)
    for name in ('evil.pth', 'good.pth'):
        url = web.url(name)
        if name == 'good.pth':
            saved = _serve_weights(web, 'segmentation').backbone
        init_cfg = dict(type='Pretrained', checkpoint=url, prefix='backbone.')
        model = VHeat(arch, img_size=64, out_indices=(3,), init_cfg=init_cfg)
        for load in (model.init_weights, lambda model=model, url=url: load_checkpoint(model, url)):
            if name == 'evil.pth':
                with pytest.raises(ValueError, match='could run code'):
                    load()
        assert not canary.exists()
    model.init_weights()
    assert torch.equal(model.layers[0][0].op.linear.weight, saved.layers[0][0].op.linear.weight)


@pytest.fixture
def loaded(monkeypatch) -> list[dict[str, torch.Tensor]]:
    """The weights that a run starts with."""
    seen: list = []

    before = ExactResumeHook.before_train

    def note(self, runner):
        seen.append({name: value.clone() for name, value in runner.model.state_dict().items()})
        before(self, runner)

    monkeypatch.setattr(ExactResumeHook, 'before_train', note)
    return seen


@pytest.mark.parametrize('entry', ['load_from', 'init_cfg', 'pretrained'])
def test_training_starts_from_a_good_file(entry, web, loaded, monkeypatch):
    saved = _serve_weights(web, 'segmentation').state_dict()
    tool, command = COMMANDS[entry]
    command = command.format(web.url('good.pth'))
    assert _run(tool, f'{command} train_cfg.max_iters=1 {SHORT}') == 0
    (weights,) = loaded
    start = '' if entry == 'load_from' else 'backbone.'
    names = [name for name in saved if name.startswith(start)]
    assert len(names) > 20
    assert all(torch.equal(weights[name], saved[name]) for name in names)
    assert len(web.asked) == 1


def test_resuming_from_a_good_file(web, loaded):
    options = f'--cfg-options default_hooks.checkpoint.interval=1 {SHORT}'
    assert _run('tools/train.py', f'segmentation.py {options} train_cfg.max_iters=1') == 0
    file = Path('work_dirs/segmentation/iter_1.pth')
    web.files['good.pth'] = file.read_bytes()
    saved = torch.load(file, weights_only=True)['state_dict']
    command = f'segmentation.py --resume {web.url("good.pth")} --work-dir other'
    assert _run('tools/train.py', f'{command} {options} train_cfg.max_iters=2') == 0
    assert all(torch.equal(loaded[1][name], tensor) for name, tensor in saved.items())
    assert Path('other/iter_2.pth').is_file() and len(web.asked) == 1


def test_resuming_runs_no_config_of_the_checkpoint(web, canary):
    """mmengine reads the config that a checkpoint holds as Python code."""
    options = f'--cfg-options default_hooks.checkpoint.interval=1 {SHORT}'
    assert _run('tools/train.py', f'segmentation.py {options} train_cfg.max_iters=1') == 0
    checkpoint = torch.load('work_dirs/segmentation/iter_1.pth', weights_only=True)
    checkpoint['meta']['config'] = f'open({str(canary)!r}, "w").close()\n'
    torch.save(checkpoint, 'evil.pth')
    command = 'segmentation.py --resume evil.pth --work-dir other'
    assert _run('tools/train.py', f'{command} {options} train_cfg.max_iters=2') == 0
    assert Path('other/iter_2.pth').is_file() and not canary.exists()


@pytest.mark.parametrize(
    'entry', ['test', 'demo_image', 'convert', 'fold', 'inspect', 'change form']
)
def test_other_commands_take_a_good_file(entry, web, tiny_data):
    _serve_weights(web, 'segmentation')
    tool, command = COMMANDS[entry]
    image = next(iter(sorted((tiny_data / 'scenes' / 'val').glob('*.png'))))
    assert _run(tool, command.format(web.url('good.pth'), image=image)) == 0
    assert len(web.asked) == 1
    if entry in ('convert', 'fold', 'change form'):
        assert os.path.getsize('out.pth') > 1000
