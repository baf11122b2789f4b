"""Draw the pictures of the README and the docs from what `make demo` trained."""

import argparse
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from mmvheat.cli.arguments import OneLineParser
from mmvheat.cli.command import run_main
from mmvheat.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

TOP = Path(__file__).resolve().parents[2]
sys.path += [str(TOP / 'tools'), str(TOP / 'tools' / 'benchmarks')]
MODELS = ('cls', 'det', 'seg')
# A validation scene with large digits, and the times at which the heat of one is shown.
SCENE = Path('scenes', 'val', 'images', '000002.png')
TIMES = (1.0, 8.0, 64.0)
_SCORE = 0.5


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = OneLineParser(description=__doc__)
    add = parser.add_argument
    text = 'what the demo left (work_dirs/demo/pretrained)'
    add('--demo', type=Path, default=TOP / 'work_dirs/demo/pretrained', metavar='DIR', help=text)
    text = 'folder of its digits (data/digits)'
    add('--data', type=Path, default=TOP / 'data/digits', metavar='DIR', help=text)
    text = 'where the pictures go (docs/images)'
    add('--out-dir', type=Path, default=TOP / 'docs/images', metavar='DIR', help=text)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Draw all pictures; one that this machine cannot draw is left out with a line."""
    args = parse_args(argv)
    models = find_models(args.demo)
    scene = args.data / SCENE
    if not scene.is_file():
        raise UserError(f'{scene} does not exist: run `make demo` first')

    from mmvheat.cli.config import writable_folder
    from mmvheat.visualization.plots import figure_png

    draw = {
        'teaser': lambda: figure_png(draw_teaser(*models['det'], scene)),
        'benchmarks': lambda: figure_png(draw_benchmarks(TOP / 'docs' / 'benchmarks.json')),
        'erf': lambda: visualize('erf', *models['det'], '--compare'),
        'page': lambda: photograph_page(list(models.values())),
    }
    folder = writable_folder(str(args.out_dir), '--out-dir')
    for name, picture in draw.items():
        path = folder / f'{name}.png'
        try:
            write_small(picture(), path)
        except UserError as error:
            print(f'{path} is left out: {error}', file=sys.stderr)


def find_models(demo: Path) -> dict[str, tuple[str, str]]:
    """Find config and last checkpoint of the demo's models.

    Args:
        demo: The folder of its run.

    Raises:
        UserError: If one has none.
    """
    from app import demo_pairs

    missing = [name for name in MODELS if not list((demo / name).glob('iter_*.pth'))]
    if missing:
        raise UserError(f'{demo} has no checkpoint of {", ".join(missing)}: run `make demo` first')
    return dict(zip(MODELS, demo_pairs(demo), strict=True))


def draw_teaser(config: str, checkpoint: str, scene: Path) -> 'Figure':
    """Draw how heat spreads from a digit, the diffusivity behind it, and what is found.

    Args:
        config: Of a detector of digits.
        checkpoint: Its weights.
        scene: The image.
    """
    import numpy as np
    import torch
    from pictures import draw_instances, enlarge, middle_pixel

    from mmvheat import visualization as vis
    from mmvheat.cli.model import LoadedModel, read_image
    from mmvheat.cli.prediction import load_predictor
    from mmvheat.visualization.plots import styled

    predictor = load_predictor(config, checkpoint, 'cpu')
    photo = read_image(str(scene))
    found = predictor.predict(photo, score_thr=_SCORE).pred_instances
    backbone = vis.find_backbone(predictor.model)
    image = LoadedModel(predictor.cfg, predictor.model, predictor.classes).prepare(photo)
    size = tuple(image.inputs.shape[2:])
    # The middle pixel of the surest digit.
    pixels = np.indices(photo.shape[:2]).reshape(2, -1).T
    if len(found):
        pixels = found.masks[found.scores.argmax()].nonzero().numpy()
    pixel = middle_pixel(pixels)
    most = []
    for stage in range(len(backbone.layers)):
        k = vis.block_diffusivity(backbone, stage, -1, size)
        most.append(k[..., vis.channel_groups(k, 4)[-1]])
    cell = vis.map_cell(pixel, size, most[0].shape[:2])
    return styled(_plot_teaser)(
        f'Heat in a small vHeat, trained on digits: {Path(config).stem}',
        vis.point_heat(most[0], cell, TIMES),
        [k.mean(-1).numpy() for k in most],
        draw_instances(
            enlarge(torch.from_numpy(photo[..., ::-1].copy()).permute(2, 0, 1)),
            found.bboxes,
            list(found.masks.numpy()),
            found.labels.tolist(),
            [f' {score:.2f}' for score in found.scores.tolist()],
        ).permute(1, 2, 0).numpy(),
        pixel,
        photo.shape[:2],
    )  # fmt: skip


def _plot_teaser(
    title: str,
    heat: 'np.ndarray',
    diffusivity: 'Sequence[np.ndarray]',
    found: 'np.ndarray',
    pixel: tuple[int, int],
    size: tuple[int, int],
) -> 'Figure':
    from matplotlib.colors import Normalize, PowerNorm

    from mmvheat.visualization.plots.style import (
        DIFFUSIVITY,
        HEAT,
        Figure,
        show_frequencies,
        show_map,
    )

    figure = Figure(figsize=(11.5, 4.9))
    figure.suptitle(title)
    left, right = figure.subfigures(1, 2, width_ratios=(1.85, 1))
    row, below = left.subplots(2, len(heat))
    for axes, frequencies in zip(row, below, strict=True):
        axes.set_xlabel('column (px)')
        frequencies.set_xlabel('$\\omega_m$ (rad/cell)')
    row[0].set_ylabel('heat of a pixel, stage 0\nrow (px)')
    for axes, temperature, time in zip(row, heat, TIMES, strict=True):
        # The noise of a short training, on both sides of 0, would cover all in a logarithm.
        shown = show_map(axes, temperature.clip(0), size, HEAT, PowerNorm(0.4, 0, 1))
        axes.set_title('t = 1: what the block does' if time == 1 else f't = {time:g}')
    bar = left.colorbar(shown, ax=row, aspect=15, ticks=(0, 0.01, 0.1, 0.3, 1))
    bar.set_label('temperature\n(below 0: black)')
    norm = Normalize(0, max(k.max() for k in diffusivity))
    for stage, (axes, k) in enumerate(zip(below, diffusivity, strict=False)):
        shown = show_frequencies(axes, k, DIFFUSIVITY, norm)
        axes.set_box_aspect(1)
        axes.set_title(f'stage {stage}')
    left.colorbar(shown, ax=below, aspect=15).set_label('k (cells²)')
    below[0].set_ylabel('diffusivity k(n, m)\n$\\omega_n$ (rad/cell)')
    axes = right.subplots()
    show_map(axes, found, size)
    ring = dict(marker='o', mfc='none', ms=11)
    axes.plot(pixel[1] + 0.5, pixel[0] + 0.5, color='black', mew=4, **ring)
    axes.plot(pixel[1] + 0.5, pixel[0] + 0.5, color='white', mew=2, **ring)
    axes.set(title='Mask R-CNN: digits and scores; ring: the pixel', xlabel='column (px)')
    return figure


def draw_benchmarks(record: Path) -> 'Figure':
    """Draw the figures of a file such as docs/benchmarks.json.

    Args:
        record: The file.
    """
    from plotting import draw_bars
    from timing import Spread, Timed

    content, rows = json.loads(record.read_text()), []
    for panel in content['panels']:
        for one in panel['results']:
            median = one['median']
            ratio = Spread(median, one.get('low', median), one.get('high', median))
            where = panel['title'], one['group'], one['name']
            rows.append(Timed(*where, [], ratio, panel['baseline'], ratio, {}))
    title = f'Speed, {content["dtype"]}, {content["device"]}: median, quartiles where kept'
    return draw_bars(rows, title, size=2.65)


def photograph_page(models: Sequence[tuple[str, str]]) -> bytes:
    """Serve the page, and take a picture of it in a headless browser, as a PNG.

    Args:
        models: Config and checkpoint of each.

    Raises:
        UserError: If this machine has no browser for it, or the page does not come.
    """
    from heat_page.browser import CHROMIUM, save_screenshot

    from mmvheat.extras import needs

    needs('playwright', 'test')
    if not CHROMIUM.exists():
        raise UserError(f'{CHROMIUM} is not there: apt-get install chromium')
    with tempfile.TemporaryDirectory() as folder, _served(models) as url:
        picture = Path(folder, 'page.png')
        save_screenshot(url, picture)
        return picture.read_bytes()


@contextmanager
def _served(models: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Serve the page as its command does; yield its address."""
    command = [sys.executable, 'tools/app.py', '--device', 'cpu']
    for config, checkpoint in models:
        command += ['--config', str(Path(config).resolve())]
        command += ['--checkpoint', str(Path(checkpoint).resolve())]
    # From here it finds the examples.
    with subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = next((line for line in process.stdout if line.startswith('page: ')), None)
            if said is None:
                raise UserError(f'tools/app.py ended with status {process.wait()}')
            yield said.split()[1]
        finally:
            process.terminate()


def visualize(what: str, *options: object) -> bytes:
    """Draw what ``tools/visualize.py`` draws, as a PNG, without its table.

    Args:
        what: Kind of the picture.
        options: Config, checkpoint, and what follows.
    """
    import visualize

    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        visualize.main([what, *map(str, options), '--out-dir', folder, '--device', 'cpu'])
        (picture,) = Path(folder).glob('*.png')
        return picture.read_bytes()


def write_small(content: bytes, path: Path) -> None:
    """Write a PNG as small as it gets without a loss.

    Args:
        content: The PNG.
        path: File to write.
    """
    from PIL import Image

    picture = Image.open(io.BytesIO(content)).convert('RGB')
    picture.save(path, optimize=True)
    print(f'{path}: {picture.width} x {picture.height} pixels, {path.stat().st_size / 1e3:.0f} kB')


if __name__ == '__main__':
    run_main(main)
