"""The pictures of the README and the docs: where they are, what they show, how they are made."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from in_process import load_script
from PIL import Image
from tiny_models import CLASSES, make_tiny_model

from mmvheat.cli.command import run_command
from mmvheat.visualization import (
    block_diffusivity,
    channel_groups,
    find_backbone,
    map_cell,
    point_heat,
)

ROOT = Path(__file__).parents[2]
CONFIGS = Path(__file__).parent / 'configs'
IMAGES = ROOT / 'docs' / 'images'


@pytest.fixture(scope='module')
def figures() -> Iterator[ModuleType]:
    before = list(sys.path)
    sys.path.insert(0, str(ROOT / 'tools' / 'demo'))
    yield load_script('tools/demo/figures.py')
    sys.path[:] = before


@pytest.fixture
def demo(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a demo of tiny models would leave, with a scene in the folder ``data``."""
    monkeypatch.setenv('TINY_DATA', str(tiny_data))
    for part, (library, classes) in zip(('cls', 'det', 'seg'), CLASSES.items(), strict=True):
        folder = tmp_path / 'demo' / part
        folder.mkdir(parents=True)
        shutil.copy(CONFIGS / f'{library}.py', folder)
        make_tiny_model(CONFIGS / f'{library}.py', classes, folder / 'iter_1.pth')
    scene = tmp_path / 'data' / 'scenes' / 'val' / 'images' / '000002.png'
    scene.parent.mkdir(parents=True)
    shutil.copy(tiny_data / 'scenes' / 'val' / '002.png', scene)
    return tmp_path / 'demo'


def test_every_picture_is_there_and_described_and_all_are_small() -> None:
    shown = set()
    for page in (ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')):
        for text, link in re.findall(r'!\[(.*?)\]\((.*?)\)', page.read_text(), re.DOTALL):
            assert len(text) > 30, f'{page.name}: {link} needs a description'
            shown.add((page.parent / link).resolve())
    assert shown == set(IMAGES.iterdir())
    assert sum(path.stat().st_size for path in shown) < 1_000_000
    for path in shown:
        with Image.open(path) as picture:
            assert picture.format == 'PNG' and picture.width >= 900


def test_the_benchmarks_are_those_of_the_page() -> None:
    """With the digits that it has."""
    page = (ROOT / 'docs' / 'benchmarks.md').read_text()
    rows = [row for row in page.splitlines() if row.startswith('| ')]
    for panel in json.loads((ROOT / 'docs' / 'benchmarks.json').read_text())['panels']:
        for one in panel['results']:
            figure = str(one['median'])
            if 'low' in one:
                figure = f'{one["median"]:.2f} [{one["low"]:.2f}, {one["high"]:.2f}]'
            assert any(f' {figure} |' in row for row in rows), one


def test_the_bars_are_the_benchmarks(figures: ModuleType) -> None:
    record = ROOT / 'docs' / 'benchmarks.json'
    panels = json.loads(record.read_text())['panels']
    axes = figures.draw_benchmarks(record).axes
    assert [one.get_title() for one in axes] == [panel['title'] for panel in panels]
    for one, panel in zip(axes, panels, strict=True):
        heights = [(bar.get_x(), bar.get_height()) for bar in one.patches]
        drawn = [height for _, height in sorted(heights)]
        assert drawn == [result['median'] for result in panel['results']]


def test_the_teaser_shows_the_heat_of_the_ringed_pixel(
    figures: ModuleType, demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, '_SCORE', 0.0)
    config, checkpoint = figures.find_models(demo)['det']
    scene = demo.parent / 'data' / figures.SCENE
    axes = {one.get_title(): one for one in figures.draw_teaser(config, checkpoint, scene).axes}
    ((column, row),) = next(one for one in axes.values() if one.lines).lines[0].get_xydata()
    model = make_tiny_model(config, CLASSES['detection'], demo / 'again.pth')
    model.load_state_dict(torch.load(checkpoint)['state_dict'])
    k = block_diffusivity(find_backbone(model), 0, -1, (64, 64))
    cell = map_cell((int(row), int(column)), (64, 64), k.shape[:2])
    expected = point_heat(k[..., channel_groups(k, 4)[-1]], cell, figures.TIMES)
    for time, heat in zip(figures.TIMES, expected, strict=True):
        (panel,) = (one for title, one in axes.items() if title.startswith(f't = {time:g}'))
        np.testing.assert_allclose(panel.images[0].get_array(), heat.clip(0), atol=1e-5)


def test_what_cannot_be_drawn_is_left_out_with_a_line(
    figures: ModuleType, demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for package in ('playwright', 'timm'):
        monkeypatch.setitem(sys.modules, package, None)
    out = demo.parent / 'out'
    options = ['--demo', demo, '--data', demo.parent / 'data', '--out-dir', out]
    figures.main([str(option) for option in options])
    assert {path.name for path in out.iterdir()} == {'teaser.png', 'benchmarks.png'}
    said = [line for line in capsys.readouterr().err.splitlines() if ' is left out: ' in line]
    for line, name, extra in zip(said, ('erf', 'page'), ('timm', 'test'), strict=True):
        assert line.startswith(f'{out / name}.png') and f'the extra `{extra}`' in line


@pytest.mark.parametrize(
    ('missing', 'said'),
    [
        ('demo', 'has no checkpoint of cls, det, seg: run `make demo` first'),
        ('demo/seg', 'has no checkpoint of seg: run `make demo` first'),
        ('data', '000002.png does not exist: run `make demo` first'),
    ],
)
def test_without_the_demo_one_line_says_so(
    missing: str, said: str, figures: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for part in ('cls', 'det', 'seg'):
        folder = tmp_path / 'demo' / part
        folder.mkdir(parents=True)
        (folder / 'iter_1.pth').touch()
        (folder / 'config.py').touch()
    scene = tmp_path / 'data' / figures.SCENE
    scene.parent.mkdir(parents=True)
    scene.touch()
    shutil.rmtree(tmp_path / missing)
    out = tmp_path / 'out'
    options = ['--demo', tmp_path / 'demo', '--data', tmp_path / 'data', '--out-dir', out]
    assert run_command(lambda: figures.main([str(option) for option in options])) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1 and said in error
    assert not out.exists()
