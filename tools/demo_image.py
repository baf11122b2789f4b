"""Draw what a classifier, detector or segmentor finds in an image: the config's scope decides."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from mmvheat.cli.arguments import OneLineParser
from mmvheat.cli.command import run_command
from mmvheat.cli.config import writable_folder
from mmvheat.cli.model import check_device, read_image
from mmvheat.errors import UserError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = OneLineParser(
        description='Draw what a model of mmpretrain, mmdet or mmseg finds in an image.'
    )
    parser.add_argument('image', help='image file')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument(
        '--out', metavar='FILE', help='picture to write (outputs/<image name>_<config name>.png)'
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ... (the GPU if there is one)')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='lowest score of a detection (0.3)'
    )
    parser.add_argument('--show', action='store_true', help='show the picture in a window as well')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Predict, print what was found and write the picture."""
    args = parse_args(argv)
    if args.show and not {'DISPLAY', 'WAYLAND_DISPLAY'} & set(os.environ):
        raise UserError('--show needs a display and there is none: leave it out')
    image = read_image(args.image)
    out = _choose_out(args)
    device = check_device(args.device)

    from mmvheat.cli.prediction import load_predictor

    predictor = load_predictor(args.config, args.checkpoint, device)
    writable_folder(str(out.parent), '--out')
    sample = predictor.predict(image, args.score_thr)
    rows = predictor.describe(sample)
    picture = predictor.draw(image, sample, args.show)
    _write(picture[..., ::-1], out)
    _report(rows, predictor.columns, out)


def _choose_out(args: argparse.Namespace) -> Path:
    """Choose the picture's name, one that OpenCV can write."""
    import cv2

    name = f'{Path(args.image).stem}_{Path(args.config).stem}.png'
    out = Path(args.out or Path('outputs') / name)
    if out.is_dir() or not cv2.haveImageWriter(str(out)):
        raise UserError(f'--out {out}: expected a file name that ends in .png, .jpg, ...')
    if out.resolve() == Path(args.image).resolve():
        raise UserError(f'--out {out} is the image itself: give another name')
    return out


def _write(picture: Any, out: Path) -> None:
    """Write the picture, whole or not at all."""
    import cv2

    content = cv2.imencode(out.suffix, picture)[1]
    part = out.with_name(f'{out.name}.part')
    part.write_bytes(content)
    part.replace(out)


def _report(rows: list[tuple[str, ...]], columns: tuple[str, ...], out: Path) -> None:
    """Print what was found and where the picture is."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    if rows:
        table = Table(*columns, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    else:
        console.print('nothing found: a lower --score-thr shows more')
    console.print(f'picture: {out}', markup=False)


if __name__ == '__main__':
    sys.exit(run_command(main))
