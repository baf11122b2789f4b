"""A checkpoint's tensors are read once; what a run loaded stands in its log."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from in_process import run_script
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

pytest.importorskip('mmcv')
CONFIGS = Path(__file__).parent / 'configs'
SHORT = (
    'train_cfg.max_iters={} train_cfg.val_interval=9 val_cfg=None val_dataloader=None '
    'val_evaluator=None train_dataloader.num_workers=0 default_hooks.checkpoint.interval=1'
)


@pytest.fixture(scope='module')
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config and a checkpoint of its training."""
    folder = tmp_path_factory.mktemp('reads')
    shutil.copy(CONFIGS / 'segmentation.py', folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv('LOCAL_RANK', '0')
        patch.setenv('TINY_DATA', str(tiny_data))
        command = f'segmentation.py --work-dir first --cfg-options {SHORT.format(1)}'
        assert run_script('tools/train.py', *command.split()) == 0
    return folder


@pytest.fixture
def run(trained: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Run a tool; return how torch read the checkpoint each time: mapped, or as a whole."""
    monkeypatch.chdir(trained)
    for name, value in dict(LOCAL_RANK='0', TINY_DATA=str(tiny_data)).items():
        monkeypatch.setenv(name, value)
    reads = []
    load = torch.load

    def noting(file, *args, **kwargs):
        reads.append('mapped' if kwargs.get('mmap') else 'whole')
        return load(file, *args, **kwargs)

    def run(tool: str, command: str) -> list[str]:
        reads.clear()
        monkeypatch.setattr(torch, 'load', noting)
        assert run_script(f'tools/{tool}.py', *command.split()) == 0
        monkeypatch.setattr(torch, 'load', load)
        return reads

    return run


@pytest.mark.parametrize(
    ('tool', 'command'),
    [
        ('test', 'segmentation.py first/iter_1.pth --work-dir work'),
        (
            'train',
            f'segmentation.py --work-dir start --cfg-options {SHORT.format(1)} load_from={{}}',
        ),
        (
            'train',
            f'segmentation.py --work-dir named --resume {{}} --cfg-options {SHORT.format(2)}',
        ),
        ('train', f'segmentation.py --work-dir first --resume --cfg-options {SHORT.format(2)}'),
        (
            'train',
            f'segmentation.py --work-dir init --cfg-options {SHORT.format(1)} '
            'model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint={} '
            'model.backbone.init_cfg.prefix=backbone.',
        ),
        ('demo_image', '{image} segmentation.py {}'),
    ],
    ids=['test', 'load_from', 'resume', 'resume auto', 'init_cfg', 'demo_image'],
)
def test_the_tensors_are_read_once(tool, command, run, tiny_data):
    image = next(iter(sorted((tiny_data / 'scenes' / 'val').glob('*.png'))))
    reads = run(tool, command.format('first/iter_1.pth', image=image))
    assert reads.count('whole') == 1
    # Before that, one look at keys and shapes, and for a resume one at its place.
    assert reads[-1] == 'whole' and len(reads) <= (3 if '--resume' in command else 2)


def test_the_log_counts_what_was_loaded(run, trained, tiny_data):
    keys = len(torch.load('first/iter_1.pth', weights_only=True)['state_dict'])
    cfg = Config.fromfile('segmentation.py')
    cfg.model.backbone.img_size, cfg.model.decode_head.num_classes = 96, 7
    with DefaultScope.overwrite_default_scope('mmseg'):
        state = MODELS.build(cfg.model).state_dict()
    del state['decode_head.convs.0.bn.weight']
    torch.save({'state_dict': {**state, 'more': torch.zeros(1)}, 'meta': {}}, 'other.pth')

    # Two runs of one name in one second would share a log.
    shutil.copy('segmentation.py', 'another.py')
    run('test', 'segmentation.py first/iter_1.pth --work-dir tested')
    run(
        'train',
        f'another.py --work-dir fitted --cfg-options load_from=other.pth {SHORT.format(1)}',
    )
    for folder, line in {
        'tested': f'INFO - Load first/iter_1.pth: {keys} keys matched, 0 of them resized, '
        '0 missing, 0 unexpected',
        'fitted': f'WARNING - Load other.pth: {keys - 3} keys matched, 4 of them resized '
        '(backbone.freq_embed.0 24x24 -> 16x16, backbone.freq_embed.1 12x12 -> 8x8, '
        'backbone.freq_embed.2 6x6 -> 4x4, backbone.freq_embed.3 3x3 -> 2x2), '
        '1 missing (decode_head.convs.0.bn.weight), 1 unexpected (more), 2 of another shape '
        '(decode_head.conv_seg.bias (7,), not (3,), decode_head.conv_seg.weight (7, 8, 1, 1), '
        'not (3, 8, 1, 1)) (the checkpoint has 7 classes, the config 3); what is missing or of '
        'another shape starts anew',
    }.items():
        log = max(Path(folder).glob('2*/2*.log')).read_text().splitlines()
        (found,) = [text for text in log if 'Load ' in text and '.pth: ' in text]
        assert found.endswith(line), found
