"""tools/visualize.py: every picture, the numbers that it prints, and one line for every mistake."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from in_process import load_script
from tiny_models import CLASSES, make_tiny_model

from mmvheat.checkpoint import change_form, fold_state_dict
from mmvheat.cli.command import run_command
from mmvheat.visualization import block_diffusivity, find_backbone, heat_at, point_heat

CONFIGS = Path(__file__).parent / 'configs'
STAGES = [f'stage {i}, block 0' for i in range(4)]


def _main(arguments: list[object]) -> None:
    load_script('tools/visualize.py').main([str(argument) for argument in arguments])


@pytest.fixture(scope='module')
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, torch.nn.Module]]:
    """A checkpoint for each library, and its model."""
    folder = tmp_path_factory.mktemp('checkpoints')
    torch.manual_seed(0)
    made = {}
    for library, classes in CLASSES.items():
        path = folder / f'{library}.pth'
        made[library] = path, make_tiny_model(CONFIGS / f'{library}.py', classes, path)
    return made


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_data: Path) -> Path:
    """A working folder with an image of 64 x 64."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny_data / 'scenes' / 'val' / '000.png', 'image.png')
    return tmp_path


@pytest.fixture
def draw(here: Path, models: dict, capsys: pytest.CaptureFixture) -> Callable:
    """Run the tool and return the rows of its table, the names of blocks as one word."""

    def draw(what: str, library: str, *options: object) -> list[list[str]]:
        checkpoint, _ = models[library]
        _main([what, CONFIGS / f'{library}.py', checkpoint, *options, '--device', 'cpu'])
        lines = capsys.readouterr().out.splitlines()
        paths = [Path(line.partition(': ')[2]) for line in lines if line.startswith('picture: ')]
        assert sorted(paths) == sorted(Path('outputs').iterdir())
        for path in paths:
            if path.suffix == '.png':
                assert min(cv2.imread(str(path)).shape[:2]) > 200
            else:
                assert '</svg>' in path.read_text()
        rows = [line for line in lines if not line.startswith('picture: ')]
        return [[word.strip() for word in row.split('  ') if word.strip()] for row in rows[1:]]

    return draw


def test_heat(draw: Callable, models: dict) -> None:
    """It stays all there, and is what the array functions give."""
    rows = draw('heat', 'detection', '--pixel', 20, 63, '--times', 0, 1, 9)
    backbone = find_backbone(models['detection'][1])
    assert [row[0] for row in rows] == [name for name in STAGES for _ in range(3)]
    assert {row[4] for row in rows} == {'1.0000'}
    for stage in range(4):
        k = block_diffusivity(backbone, stage)
        cell = 20 // 2 ** (2 + stage), k.size(1) - 1
        maps = point_heat(k, cell, (0, 1, 9))
        of_stage = rows[3 * stage : 3 * stage + 3]
        expected = [(heat[cell], heat.min()) for heat in maps]
        found = [[float(value) for value in row[2:4]] for row in of_stage]
        np.testing.assert_allclose(found, expected, atol=6e-5)
        assert maps[0][cell] > maps[1][cell] > maps[2][cell]


@pytest.mark.parametrize('channels', ['mean', 'most', '2'])
def test_heat_of_an_image(channels: str, draw: Callable) -> None:
    rows = draw('heat', 'segmentation', 'image.png', '--stage', -4, '--channels', channels)
    assert [row[0] for row in rows] == STAGES[:1] * 5
    assert {row[4] for row in rows} == {'1.0000'}
    assert Path('outputs/heat_segmentation_image.png').is_file()


def test_heat_with_one_k(draw: Callable) -> None:
    """An even plate, of any size: the middle of a Gaussian of variance 2 k t is 1 / (4 pi k t)."""
    options = ('--k', 2, '--times', 2, '--stage', 0, '--size', 256, 200)
    ((_, _, source, coldest, heat),) = draw('heat', 'classification', *options)
    assert float(source) == pytest.approx(1 / (4 * np.pi * 4), rel=0.01)
    assert float(coldest) == 0 and heat == '1.0000'


def test_diffusivity_and_decay(draw: Callable, models: dict) -> None:
    rows = draw('diffusivity', 'classification', '--groups', 2, '--size', 96)
    assert [row[0] for row in rows] == [name for name in STAGES for _ in range(4)]
    assert [row[1] for row in rows] == ['64 x 64', '64 x 64', '96 x 96', '96 x 96'] * 4
    backbone = find_backbone(models['classification'][1])
    for stage in range(4):
        for i, size in enumerate(((64, 64), (96, 96))):
            k = block_diffusivity(backbone, stage, image_size=size)
            least, most = rows[4 * stage + 2 * i : 4 * stage + 2 * i + 2]
            mean = (float(least[3]) + float(most[3])) / 2
            assert mean == pytest.approx(k.mean().item(), abs=1e-3)
            assert float(least[3]) < float(most[3])
            assert float(most[4]) == pytest.approx(k.max().item(), abs=1e-3)

    shutil.rmtree('outputs')
    rows = draw('decay', 'classification', '--stage', 0, '--groups', 1)
    ((_, _, *left),) = rows
    left = [float(one.rstrip('%')) / 100 for one in left]
    assert 1 > left[0] > left[1] > left[2] > 0
    k = block_diffusivity(backbone, 0).mean().item()
    assert left[0] == pytest.approx(np.exp(-k * (np.pi / 4) ** 2), rel=0.2)
    assert heat_at(block_diffusivity(backbone, 0), 1)[4, 0].mean() == pytest.approx(
        left[0], rel=0.2
    )


def test_spectrum_and_features(draw: Callable, models: dict) -> None:
    """The constant part stays, the others fade."""
    rows = draw('spectrum', 'detection', 'image.png')
    assert [row[0] for row in rows] == STAGES
    assert all(0 < float(row[2].rstrip('%')) < 100 for row in rows)
    shutil.rmtree('outputs')
    rows = draw('features', 'detection', 'image.png')
    assert [row[1] for row in rows] == ['16 x 16 x 8', '8 x 8 x 16', '4 x 4 x 32', '2 x 2 x 64']


@pytest.mark.parametrize('library', CLASSES)
@pytest.mark.parametrize('given', [True, False])
def test_class_activations(library: str, given: bool, draw: Callable) -> None:
    pytest.importorskip('pytorch_grad_cam')
    shutil.copy('image.png', 'other.png')
    likeliest = draw('cam', library, 'image.png', 'other.png', '--stage', 1, '--method', 'grad')
    # The table of a second image follows, with its header.
    name = likeliest[0][0].removeprefix('Grad-CAM for ')
    assert name in CLASSES[library] and likeliest[2] == likeliest[0]
    shutil.rmtree('outputs')
    label = name if given else CLASSES[library].index(name)
    rows = draw('cam', library, 'image.png', '--stage', 1, '--class', label)
    assert rows[0] == likeliest[0] and rows[1][0] == 'Eigen-CAM'


@pytest.mark.parametrize('images', [[], ['image.png']])
def test_receptive_fields(images: list[str], draw: Callable) -> None:
    options = ['--samples', 1, '--size', 160] if not images else []
    rows = draw('erf', 'classification', *images, *options)
    assert [row[0] for row in rows] == ['vHeat, trained', 'vHeat, before training']
    for row in rows:
        areas = [float(cell.partition('%')[0]) for cell in row[1:]]
        assert 0 < areas[0] <= areas[1] <= areas[2] <= areas[3] <= 100
    trained, before = (float(row[4].partition('%')[0]) for row in rows)
    if not images:
        assert trained > before


def test_receptive_fields_beside_those_of_timm(draw: Callable) -> None:
    pytest.importorskip('timm')
    rows = draw('erf', 'classification', '--samples', 1, '--compare', 'convnext_atto')
    assert [row[0] for row in rows][2:] == ['convnext_atto, before training']


@pytest.mark.parametrize('form', ['published', 'folded'])
def test_other_forms_of_a_checkpoint_give_the_same_numbers(
    form: str, draw: Callable, models: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = draw('decay', 'classification', '--stage', 1)
    shutil.rmtree('outputs')
    _, model = models['classification']
    options = []
    if form == 'folded':
        content = {'state_dict': fold_state_dict(model.state_dict(), 64)}
        options = ['--cfg-options', 'model.backbone.inference_form=True']
    else:
        content = {'model': change_form(model.state_dict(), 'published')[0]}
    torch.save(content, 'other.pth')
    monkeypatch.setitem(models, 'classification', (Path('other.pth'), model))
    assert draw('decay', 'classification', '--stage', 1, *options) == expected
    shutil.rmtree('outputs')
    if form == 'folded':
        wrong = ('heat', CONFIGS / 'classification.py', 'other.pth', '--size', 32, *options)
        assert run_command(lambda: _main([*wrong])) == 2
        assert not Path('outputs').exists()


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ('heatwave', "invalid choice: 'heatwave'"),
        ('heat', 'config, checkpoint'),
        ('features C K', 'image'),
        ('heat nowhere.py K', 'nowhere.py does not exist'),
        ('heat C nowhere.pth', 'nowhere.pth does not exist'),
        ('heat C image.png', 'image.png'),
        ('heat C detection.pth', 'missing'),
        ('heat C K nowhere.png', 'nowhere.png does not exist'),
        ('heat C K text.png', 'text.png cannot be read as an image'),
        ('heat C K --stage 4', 'the backbone has no stage 4: it has stage 0 to 3'),
        ('heat C K --stage 1 --block -2', 'stage 1 has no block -2: it has block 0 to 0'),
        ('heat C K --pixel 64 0', 'pixel 64 0 (row, column) is outside of the image of 64 x 64'),
        ('heat C K image.png --pixel 0 -1', 'pixel 0 -1 (row, column) is outside'),
        ('heat C K --pixel 1', '--pixel: expected 2 arguments'),
        ('heat C K --size 0', "'0' is not a number of pixels"),
        ('heat C K --times 1 -1', 'a time is a number from 0, got -1'),
        ('heat C K --channels some', "--channels is mean, most or the number of one from 0"),
        ('heat C K --channels 8', 'there is no channel 8: the map has 0 to 7'),
        ('heat C K --k -1', 'a diffusivity is a number from 0, got -1'),
        ('heat C K --device tpu', '--device tpu cannot be used'),
        ('diffusivity C K --groups 9', '8 channels make 1 to 8 groups, got 9'),
        ('diffusivity C K --size 32 --mode pad', "'pad' cannot shrink"),
        ('diffusivity C K --cfg-options model=3', 'cfg should be a dict'),
        ('decay C K --out-dir text.png', 'text.png'),
        ('decay C K --out-dir there', 'there/decay_classification.svg exists: give --force'),
        ('erf C K image.png small.png', 'several sizes'),
        ('features C K image.png in/image.png', 'two images would give'),
        ('cam C K image.png --class lion', 'there is no class lion: the model knows a, b, c'),
        ('cam C K image.png --class 3', 'there is no class 3'),
        ('cam C K image.png --method eigen --stage 7', 'the backbone has no stage 7'),
        ('cam C K image.png --method both', "invalid choice: 'both'"),
    ],
)  # fmt: skip
def test_mistakes(
    arguments: str, said: str, here: Path, models: dict, capsys: pytest.CaptureFixture
) -> None:
    Path('text.png').write_text('no picture')
    Path('there').mkdir()
    Path('there/decay_classification.svg').write_text('mine')
    Path('in').mkdir()
    shutil.copy('image.png', 'in')
    cv2.imwrite('small.png', np.zeros((32, 32, 3), np.uint8))
    shutil.copy(models['detection'][0], 'detection.pth')
    names = {'C': CONFIGS / 'classification.py', 'K': models['classification'][0]}
    command = [str(names.get(word, word)) for word in arguments.split()]
    before = {path for path in here.rglob('*') if '__pycache__' not in path.parts}
    capsys.readouterr()
    try:
        status = run_command(lambda: _main(command))
    except SystemExit as stop:
        status = stop.code
    out, error = capsys.readouterr()
    lines = [line for line in error.splitlines() if line.startswith('error: ')]
    assert status == 2 and out == ''
    assert len(lines) == 1 and said in lines[0], error
    assert {path for path in here.rglob('*') if '__pycache__' not in path.parts} == before
    assert Path('there/decay_classification.svg').read_text() == 'mine'


@pytest.mark.parametrize(
    ('module', 'arguments', 'said'),
    [
        ('pytorch_grad_cam', 'cam image.png', 'the extra `visualization`'),
        ('timm', 'erf --compare', 'the extra `timm`'),
    ],
)
def test_a_missing_extra(
    module: str, arguments: str, said: str, here: Path, models: dict, capsys, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    what, *rest = arguments.split()
    checkpoint, _ = models['classification']
    command = [what, CONFIGS / 'classification.py', checkpoint, *rest]
    assert run_command(lambda: _main(command)) == 2
    out, error = capsys.readouterr()
    assert out == '' and said in error and not Path('outputs').exists()


def test_pictures_are_replaced_if_told(draw: Callable) -> None:
    draw('decay', 'classification')
    path = Path('outputs/decay_classification.png')
    content = path.read_bytes()
    path.write_bytes(b'')
    draw('decay', 'classification', '--force')
    assert path.read_bytes() == content
