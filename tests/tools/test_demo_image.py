"""tools/demo_image.py: what it prints and draws, and one clear line for every mistake."""

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from in_process import load_script
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmvheat.cli.command import run_command
from mmvheat.cli.prediction import enlargement

ROOT = Path(__file__).parents[2]
CONFIGS = Path(__file__).parent / 'configs'
CLASSES = {
    'classification': ('a', 'b', 'c'),
    'detection': ('square', 'disc'),
    'segmentation': ('back', 'square', 'disc'),
}
PALETTE = [[0, 0, 0], [250, 20, 0], [0, 250, 0]]
ENLARGED = 6  # 64 pixels to 384


def _main(arguments: list[object]) -> None:
    load_script('tools/demo_image.py').main([str(argument) for argument in arguments])


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint for each library; two of the models say the same of any image."""
    folder = tmp_path_factory.mktemp('checkpoints')
    torch.manual_seed(0)
    for library, classes in CLASSES.items():
        cfg = Config.fromfile(CONFIGS / f'{library}.py')
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = MODELS.build(cfg.model)
            model.init_weights()
        last = None
        if library == 'classification':
            last = model.head.fc
        elif library == 'segmentation':
            last = model.decode_head.conv_seg
        if last is not None:
            torch.nn.init.zeros_(last.weight)
            last.bias.data = torch.tensor([0.0, 2.0, 1.0])
        meta = dict(dataset_meta=dict(classes=classes, palette=PALETTE[: len(classes)]))
        torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / f'{library}.pth')
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_data: Path) -> Path:
    """A working folder with an image of 64 x 64."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('DISPLAY', raising=False)
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    shutil.copy(tiny_data / 'scenes' / 'val' / '000.png', 'image.png')
    return tmp_path


@pytest.fixture
def demo(here: Path, checkpoints: Path, capsys: pytest.CaptureFixture) -> Callable:
    """Run the tool on the image and return its rows and its picture."""

    def demo(library: str, *options: object) -> tuple[list[list[str]], np.ndarray]:
        weights = checkpoints / f'{library}.pth'
        _main(['image.png', CONFIGS / f'{library}.py', weights, '--device', 'cpu', *options])
        *rows, last = capsys.readouterr().out.splitlines()
        assert last.startswith('picture: ')
        return [row.split() for row in rows], cv2.imread(last.removeprefix('picture: '))

    return demo


def _image() -> np.ndarray:
    return cv2.imread('image.png').astype(float)


def _middles(picture: np.ndarray) -> np.ndarray:
    """The middle of each enlarged pixel: old versions of matplotlib shift a picture by one."""
    start = ENLARGED // 2
    return picture[start::ENLARGED, start::ENLARGED]


def test_classifier(demo: Callable) -> None:
    rows, picture = demo('classification')
    scores = torch.tensor([2.0, 1.0, 0.0]).softmax(0).tolist()
    assert rows[1:] == [[n, f'{score:.3f}'] for n, score in zip('bca', scores, strict=True)]
    # The label covers the upper left; the rest is the image as it was.
    assert picture.shape == (384, 384, 3)
    difference = np.abs(_middles(picture) - _image())
    assert difference[100 // ENLARGED :].max() <= 2
    assert difference[: 40 // ENLARGED, : 40 // ENLARGED].max() > 20
    assert Path('outputs/image_classification.png').is_file()


def test_segmentor(demo: Callable) -> None:
    rows, picture = demo('segmentation', '--out', 'deeper/drawn.png')
    assert rows[1:] == [['square', '100.0%']]
    blend = 0.2 * _image() + 0.8 * np.array(PALETTE[1][::-1])
    same = np.abs(_middles(picture) - blend).max(-1) <= 1
    assert same.mean() > 0.9  # all but the label
    assert Path('deeper/drawn.png').is_file()


def test_detector(demo: Callable) -> None:
    rows, picture = demo('detection', '--score-thr', 0, '--out', 'all.jpg')
    assert rows[0][:2] == ['class', 'found']
    assert sum(int(found) for _, found, _ in rows[1:]) == 10  # the config's max_per_img
    assert {name for name, *_ in rows[1:]} <= set(CLASSES['detection'])
    assert np.abs(_middles(picture) - _image()).mean() > 2
    best = float(max(score for *_, score in rows[1:]))
    rows, _ = demo('detection', '--score-thr', best - 0.0006)
    assert 1 <= sum(int(found) for _, found, _ in rows[1:]) <= 10
    rows, picture = demo('detection', '--score-thr', 1)
    assert rows == [['nothing', 'found:', 'a', 'lower', '--score-thr', 'shows', 'more']]
    same = np.abs(picture - _image().repeat(ENLARGED, 0).repeat(ENLARGED, 1)) <= 2
    assert same.mean() > 0.5  # all, if matplotlib is not old


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ('nowhere.png segmentation segmentation', 'nowhere.png does not exist'),
        ('. segmentation segmentation', 'is no file'),
        ('text.png segmentation segmentation', 'text.png cannot be read as an image'),
        ('image.png nowhere segmentation', 'nowhere.py does not exist'),
        ('image.png foreign segmentation', "default_scope='mmpose': expected 'mmpretrain'"),
        ('image.png empty segmentation', 'has no model'),
        ('image.png segmentation nowhere', 'nowhere.pth does not exist'),
        ('image.png segmentation classification', '12 missing (decode_head.conv_seg.weight'),
        ('image.png wider segmentation', 'the checkpoint has 3 classes, the config 7'),
        ('image.png segmentation segmentation --out drawn', "--out drawn: expected a file name"),
        ('image.png segmentation segmentation --out image.png', 'is the image itself'),
        ('image.png segmentation segmentation --out text.png/a.png', 'text.png cannot be made'),
        ('image.png segmentation segmentation --device tpu', '--device tpu cannot be used'),
        ('image.png segmentation segmentation --show', '--show needs a display'),
        ('image.png segmentation segmentation --score-thr high', '--score-thr'),
        ('image.png', 'config, checkpoint'),
    ],
)  # fmt: skip
def test_mistakes(
    arguments: str, said: str, here: Path, checkpoints: Path, capsys: pytest.CaptureFixture
) -> None:
    base = f'_base_ = {str(CONFIGS / "segmentation.py")!r}\n'
    Path('wider.py').write_text(base + 'model = dict(decode_head=dict(num_classes=7))\n')
    Path('foreign.py').write_text("default_scope = 'mmpose'\n")
    Path('empty.py').write_text("default_scope = 'mmseg'\n")
    Path('text.png').write_text('no picture')
    command = arguments.split()
    if len(command) > 2:
        config, checkpoint = command[1:3]
        own = Path(f'{config}.py').is_file() or config == 'nowhere'
        command[1] = f'{config}.py' if own else str(CONFIGS / f'{config}.py')
        command[2] = str(checkpoints / f'{checkpoint}.pth')
    before = {path for path in here.rglob('*') if '__pycache__' not in path.parts}
    try:
        status = run_command(lambda: _main(command))
    except SystemExit as stop:
        status = stop.code
    out, error = capsys.readouterr()
    lines = [line for line in error.splitlines() if line.startswith('error: ')]
    assert status == 2 and out == ''
    assert len(lines) == 1 and said in lines[0], error
    assert 'Traceback' not in error
    assert {path for path in here.rglob('*') if '__pycache__' not in path.parts} == before


@pytest.mark.parametrize(
    ('size', 'times'),
    [((64, 64), 6), ((383, 600), 2), ((384, 600), 1), ((8, 1024), 2), ((9, 4000), 1)],
)
def test_small_pictures_are_enlarged_but_not_without_end(size: tuple[int, int], times: int) -> None:
    assert enlargement(size) == times
