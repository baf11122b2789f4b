"""The demo's own logic: floors decide its status, a failed command names its cause."""

import base64
import importlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from rich.console import Console
from torchvision.io import read_image, write_png

from mmvheat.cli.command import run_command
from mmvheat.errors import UserError

DEMO = Path(__file__).parents[2] / 'tools' / 'demo'
GOOD = {'top-1': 96.0, 'box AP': 75.0, 'mask AP': 78.0, 'mIoU': 72.0, 'mIoU (TTA)': 73.0}
SECONDS = dict.fromkeys(('cls', 'cls-test', 'det', 'det-test', 'seg', 'seg-test', 'seg-tta'), 1.0)


@pytest.fixture(scope='module')
def demo():
    sys.path.insert(0, str(DEMO))
    yield importlib.import_module('run')
    sys.path.remove(str(DEMO))


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=100)


def outcome(demo, scratch=False, full=False, **figures):
    values = dict(GOOD, **figures)
    if scratch:
        del values['top-1']
    return demo.Outcome(scratch, 0, full, values, dict(SECONDS), ['a/picture.png'])


def test_good_figures_pass_and_are_all_in_the_table(demo, console):
    assert demo.report(outcome(demo), None, console) == []
    text = console.file.getvalue()
    assert all(name in text and f'{value:.1f}' in text for name, value in GOOD.items())


@pytest.mark.parametrize('full', [False, True], ids=['short', 'full'])
@pytest.mark.parametrize('name', ['top-1', 'box AP', 'mask AP', 'mIoU'])
def test_each_floor_fails_the_run(demo, console, name, full):
    floor = demo.length_of(full).floors[name]
    run = outcome(demo, full=full, **{name: floor - 0.1, 'mIoU (TTA)': 99.0})
    assert demo.report(run, None, console) == [
        f'{name} is {floor - 0.1:.1f}, below its floor of {floor:.1f}'
    ]


def test_the_full_length_trains_longer_and_must_reach_more(demo):
    short, full = demo.length_of(False), demo.length_of(True)
    assert all(full.floors[name] > floor for name, floor in short.floors.items())
    assert full.minutes > short.minutes and full.scratch_minutes > short.scratch_minutes
    for name in ('classifier', 'detector', 'segmentor'):
        paths = [getattr(length, name) for length in (short, full)]
        pair = [Config.fromfile(demo.TOP / path).to_dict() for path in paths]
        iterations = [cfg.pop('max_iters') for cfg in pair]
        assert iterations[0] < iterations[1]
        for path, cfg, end in zip(paths, pair, iterations, strict=True):
            assert f'-{end}i_' in path.name
            assert cfg.pop('train_cfg')['max_iters'] == cfg.pop('param_scheduler')[-1]['end'] == end
            cfg['default_hooks'].pop('checkpoint')
            cfg['optim_wrapper']['optimizer'].pop('lr')
        assert pair[0] == pair[1]


def test_augmentation_must_not_hurt(demo, console):
    (line,) = demo.report(outcome(demo, **{'mIoU (TTA)': 71.9}), None, console)
    assert line.startswith('mIoU (TTA) is 71.9, below')


@pytest.mark.parametrize('full', [False, True], ids=['short', 'full'])
@pytest.mark.parametrize(('missing', 'fails'), [(0.0, False), (0.1, True)])
def test_pretraining_must_bring_points(demo, console, full, missing, fails):
    scratch = GOOD['mIoU'] - demo.length_of(full).least_gain + missing
    run = outcome(demo, scratch=True, full=full, mIoU=scratch)
    assert bool(demo.report(run, outcome(demo, full=full), console)) is fails


def test_a_run_from_scratch_has_no_floors_of_its_own(demo, console):
    assert demo.report(outcome(demo, scratch=True, mIoU=20.0), None, console) == []


def test_only_a_run_of_the_same_seed_and_length_is_a_reference(demo, tmp_path):
    path = tmp_path / 'results.json'
    assert demo.load_reference(path, 3, True) is None
    run = {'scratch': False, 'seed': 3, 'full': True, 'figures': {'mIoU': 70.0}}
    path.write_text(json.dumps(run))
    assert demo.load_reference(path, 3, True).figures == {'mIoU': 70.0}
    assert demo.load_reference(path, 0, True) is None
    assert demo.load_reference(path, 3, False) is None


@pytest.mark.parametrize(
    ('script', 'message'),
    [
        ("print('error: no such file'); raise SystemExit(2)", 'error: no such file'),
        ("raise ValueError('too small')", 'ValueError: too small'),
        ('raise SystemExit(7)', 'status 7'),
    ],
)
def test_a_failed_command_names_its_cause(demo, console, tmp_path, script, message):
    log = tmp_path / 'logs' / 'step.log'
    with pytest.raises(UserError, match=message) as raised:
        demo.run_command([sys.executable, '-c', script], tmp_path, log, console)
    assert '\n' not in str(raised.value) and str(log) in str(raised.value)


def test_progress_and_log_of_a_command(demo, console, tmp_path):
    line = 'Iter(train) [ 50/100]  lr: 1e-3  eta: 0:00:03  loss: 2.2123'
    script = f'for n in (50, 100): print({line!r}.replace("50", str(n)))'
    demo.run_command([sys.executable, '-c', script], tmp_path, tmp_path / 'log', console)
    assert (tmp_path / 'log').read_text().startswith(line)
    assert '100/100 iterations  loss 2.212  left 0:00' in console.file.getvalue()


@pytest.mark.parametrize('arguments', [['--seed', 'x'], ['--colour'], ['--work-dir', __file__]])
def test_mistakes_are_one_line(demo, capsys, arguments):
    try:
        status = run_command(lambda: demo.main(arguments))
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2
    assert error.startswith('error: ') and error.count('\n') == 1


@pytest.mark.parametrize(
    ('setting', 'flags'), [([], []), (['FULL=1'], ['--full']), (['FULL=0'], [])]
)
def test_make_chooses_the_length(demo, setting, flags):
    command = ['make', '-n', 'demo', 'demo-scratch', *setting]
    done = subprocess.run(command, cwd=demo.TOP, capture_output=True, text=True, check=True)
    calls = [line.split()[2:] for line in done.stdout.splitlines() if 'tools/demo/run.py' in line]
    assert calls == [flags, ['--scratch', *flags]]


def images_of(picture: Path) -> torch.Tensor:
    """The images of a picture, without the titles around them."""
    pictures = importlib.import_module('pictures')
    return read_image(str(picture))[:3, pictures.TOP : -pictures.BOTTOM, pictures.LEFT :]


def test_the_first_picture_shows_the_data_and_their_labels(demo, tmp_path):
    """Digits, scenes, and scenes that differ where they are labelled."""
    from digits import prepare_digits

    root = prepare_digits(
        tmp_path / 'digits', num_train_digits=60, num_val_digits=1, train_renders=1,
        num_train_scenes=2, num_val_scenes=1,
    )  # fmt: skip
    out = importlib.import_module('pictures').draw_data(root, tmp_path / 'data.png', scenes=2)
    picture = images_of(out)
    side = 3 * 128
    assert picture.shape == (3, 3 * (side + 4) + 4, 2 * (side + 4) + 4)
    digits, scenes, labelled = picture[:, 4:, 4:-4].unfold(1, side, side + 4).unbind(1)
    coco = json.loads((root / 'scenes' / 'annotations' / 'instances_train.json').read_text())
    changed = (scenes != labelled).any(0).T
    for annotation in coco['annotations']:
        if annotation['image_id'] == 1:
            left, top, width, height = (int(3 * value) for value in annotation['bbox'])
            assert changed[top : top + height, left : left + width].float().mean() > 0.1
    assert not torch.equal(digits, scenes)


def test_pictures_show_truth_and_prediction(demo, tmp_path):
    """A perfect prediction looks like the truth, and unlike the bare scene; its digit is named."""
    import pickle

    pictures = importlib.import_module('pictures')
    (tmp_path / 'masks').mkdir()
    image = torch.full((3, 16, 16), 40, dtype=torch.uint8)
    labels = torch.zeros(16, 16, dtype=torch.uint8)
    labels[2:14, 2:14] = 3
    write_png(image, str(tmp_path / '1.png'))
    write_png((labels + 1)[None], str(tmp_path / 'masks' / '1.png'))
    sample = dict(img_path=str(tmp_path / '1.png'), pred_sem_seg=labels.numpy())
    (tmp_path / 'p.pkl').write_bytes(pickle.dumps([sample]))
    out = pictures.draw_segmentations(tmp_path / 'p.pkl', tmp_path / 'masks', tmp_path / 'o.png')
    scene, truth, predicted = images_of(out)[:, 4:-4, 4:-4].unfold(1, 48, 52).unbind(1)
    assert torch.equal(truth, predicted)
    assert not torch.equal(scene, truth)
    # In white, which the colours are not.
    assert (truth == 255).all(0)[18:30, 18:30].any() and not (scene == 255).any()


def test_the_heat_starts_on_the_largest_digit(demo, tmp_path):
    pictures = importlib.import_module('pictures')
    annotations = [
        dict(id=1, image_id=1, category_id=1, area=4, bbox=[0, 0, 2, 2], iscrowd=0,
             segmentation=[[0, 0, 2, 0, 2, 2, 0, 2]]),
        dict(id=2, image_id=1, category_id=1, area=48, bbox=[4, 8, 8, 6], iscrowd=0,
             segmentation=[[4, 8, 12, 8, 12, 14, 4, 14]]),
    ]  # fmt: skip
    coco = dict(
        images=[dict(id=1, file_name='1.png', height=16, width=16)],
        categories=[dict(id=1, name='0')],
        annotations=annotations,
    )
    (tmp_path / 'coco.json').write_text(json.dumps(coco))
    file, (row, column) = pictures.largest_instance(tmp_path / 'coco.json')
    assert file == '1.png' and 9 <= row <= 12 and 6 <= column <= 9


def test_the_report_holds_all_in_one_file(demo, tmp_path):
    """The table, what is below its floor, the curves; and it asks for nothing from elsewhere."""
    page = importlib.import_module('page')
    folder = tmp_path / 'cls' / '1' / 'vis_data'
    folder.mkdir(parents=True)
    lines = [dict(loss=2.0, step=50), dict(loss=1.5, step=100), {'accuracy/top1': 9, 'step': 100}]
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    curves = page.draw_curves({'classifier': tmp_path / 'cls'}, tmp_path / 'losses.png')
    run = outcome(demo, mIoU=30.0)
    run.pictures = [str(curves)]
    below = demo.report(run, None, Console(file=io.StringIO()))
    text = demo.write_report(run, None, below, tmp_path).read_text()
    assert all(f'<td>{value:.1f}</td>' in text for value in run.figures.values())
    assert below[0] in text and 'Losses' in text
    (content,) = re.findall('src="data:image/png;base64,([^"]+)"', text)
    assert base64.b64decode(content) == curves.read_bytes()
    assert not re.search('(src|href)="(?!data:)', text) and '<script' not in text
