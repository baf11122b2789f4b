"""Export a trained model to ONNX, OpenVINO, torch.export or TorchScript, and check the file.

Usage: python tools/export.py CONFIG CHECKPOINT OUT [--format FORMAT] [--size H W]
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mmvheat.cli.arguments import CfgOptions, OneLineParser
from mmvheat.cli.command import run_main
from mmvheat.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from mmvheat.cli.model import LoadedModel
    from mmvheat.export.build import InputFacts
    from mmvheat.export.graph import Shape
    from mmvheat.export.verify import Check

# As in mmvheat.export, which imports torch; a test holds them equal.
FORMATS = ('onnx', 'torch-export', 'openvino', 'torchscript')
HALF = ('float16', 'bfloat16')
DYNAMIC = 'dynamic'
_SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp'}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = OneLineParser(
        description='Export a trained classifier, segmentor or detector. The file is run and '
        'compared with torch before it gets its name: one that differs by more than 1e-4 of the '
        'largest value is not left behind.',
        allow_abbrev=False,
    )
    add = parser.add_argument
    add('config', help='config file of the model')
    add('checkpoint', help='checkpoint file or URL')
    add('out', metavar='OUT', help='file to write: .onnx, .pt2, .xml (with .bin) or .torchscript')
    add('--format', choices=FORMATS, help='format of OUT (by its suffix)')
    text = "size of the images: N, H W, or dynamic for any (the backbone's img_size)"
    add('--size', nargs='+', type=_size, metavar='N', help=text)
    text = 'number of images in a batch, or dynamic for any (1 for a whole detector, else dynamic)'
    add('--batch', type=_batch, metavar='N', help=text)
    text = 'the file takes pixels, uint8 (N, H, W, 3) in the order r, g, b, and normalises them'
    add('--preprocess', action='store_true', help=text)
    text = 'a segmentor gives the class of each pixel in place of logits'
    add('--label-map', action='store_true', help=text)
    add('--features', action='store_true', help='backbone and neck alone')
    precision = parser.add_mutually_exclusive_group()
    text = f'half precision: {" or ".join(HALF)} (float32 throughout; {HALF[0]} if none is named)'
    precision.add_argument('--half', nargs='?', const=HALF[0], choices=HALF, help=text)
    text = 'linear layers and convolutions in 8 bits, by ranges found on images'
    precision.add_argument('--int8', action='store_true', help=text)
    text = "folder with images for --int8 (the config's training data)"
    add('--calibration', metavar='DIR', help=text)
    text = 'how many of them are used (64)'
    add('--calibration-images', type=_count, default=64, metavar='N', help=text)
    add('--opset', type=int, help="version of ONNX's operators, 18 to 23 (20)")
    add('--force', '--overwrite', action='store_true', help='replace OUT if it exists')
    text = 'override settings of the config'
    add('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help=text)
    args = parser.parse_args(argv)
    if args.size is not None:
        if len(args.size) > 2 or (DYNAMIC in args.size and len(args.size) > 1):
            parser.error('--size takes N, H W or dynamic')
        args.size = args.size[0] if DYNAMIC in args.size else (args.size[0], args.size[-1])
    if args.calibration is not None and not args.int8:
        parser.error('--calibration DIR is for --int8')
    return args


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 1')
    return int(text)


def _batch(text: str) -> int | str:
    return text if text == DYNAMIC else _count(text)


def _size(text: str) -> int | str:
    if text != DYNAMIC and not (text.isdecimal() and 1 <= int(text) <= 4096):
        raise argparse.ArgumentTypeError(
            f'{text!r} is neither a number of pixels in 1..4096 nor {DYNAMIC}'
        )
    return text if text == DYNAMIC else int(text)


def main(argv: list[str] | None = None) -> None:
    """Export, compare, and print what was compared.

    Args:
        argv: Arguments; the process's own if None.
    """
    args = parse_args(argv)
    from mmvheat.cli.calibration import training_images
    from mmvheat.cli.model import load_model
    from mmvheat.export.build import InputFacts, exported_module
    from mmvheat.export.graph import Shape
    from mmvheat.export.verify import check_sizes
    from mmvheat.export.write import check_request, choose_format, write_exported
    from mmvheat.visualization import find_backbone

    format = choose_format(args.out, args.format)
    precision = args.half or ('int8' if args.int8 else 'float32')
    target = check_request(
        args.out, format, args.size == DYNAMIC, precision, args.opset, args.force
    )
    paths = _calibration_files(args)
    loaded = load_model(args.config, args.checkpoint, args.cfg_options)
    if args.int8 and not paths:
        paths = training_images(loaded.cfg, args.config, args.calibration_images)
    backbone = find_backbone(loaded.model)
    own = backbone.folded_for or backbone.img_size
    facts = InputFacts(loaded.model.data_preprocessor)
    module, reason = exported_module(
        loaded.model, facts, args.preprocess, args.label_map, args.features
    )
    size = None if args.size == DYNAMIC else args.size or own
    batch = _number_of_images(args.batch, size, module.task, format)
    shape = Shape(size, batch, args.preprocess)
    if shape.size is not None and any(side % facts.divisor for side in shape.size):
        raise UserError(
            f'--size {shape.size[0]} {shape.size[1]}: the config pads images to multiples of '
            f'{facts.divisor}: give such numbers'
        )
    metadata = _metadata(args, format, precision, loaded, facts, shape, module)
    sizes = check_sizes(shape, own, facts.divisor)
    images = _calibration(paths, loaded, facts, shape, own)
    checks = write_exported(module, target, shape, metadata, sizes, images)
    _report(checks)
    if reason:
        print(f'backbone and neck alone: {reason}')
    height_width = DYNAMIC if shape.size is None else f'{shape.size[0]} x {shape.size[1]}'
    print(
        f'wrote {args.out}: {metadata.task}, images of {height_width}, batch {metadata.batch}, '
        f'{precision}, {_megabytes(target):.1f} MB'
    )


def _metadata(args, format, precision, loaded, facts: 'InputFacts', shape: 'Shape', module):
    from importlib.metadata import version

    import torch

    import mmvheat
    from mmvheat.checkpoint.io.download import local_file
    from mmvheat.cli.inspection import sha256
    from mmvheat.export.build import resize_facts
    from mmvheat.export.graph import SIZES
    from mmvheat.export.metadata import Metadata
    from mmvheat.export.onnx import DEFAULT_OPSET

    source = local_file(args.checkpoint)
    versions = {'mmvheat': mmvheat.__version__, 'torch': torch.__version__}
    opset = None
    if format in ('onnx', 'openvino'):
        opset = args.opset or DEFAULT_OPSET
        versions['onnx'] = version('onnx')
    return Metadata(
        task=module.task,
        outputs=tuple(module.output_names),
        classes=loaded.classes,
        palette=loaded.palette,
        mean=facts.mean,
        std=facts.std,
        preprocess=args.preprocess,
        size=DYNAMIC if shape.size is None else shape.size,
        smallest=SIZES[0] if shape.size is None else None,
        largest=SIZES[1] if shape.size is None else None,
        divisor=facts.divisor,
        batch=shape.batch or DYNAMIC,
        resize=resize_facts(loaded.cfg.test_dataloader.dataset.pipeline, facts.pad_value),
        mask_threshold=_mask_threshold(loaded),
        precision=precision,
        format=format,
        opset=opset,
        source={
            'file': source.name,
            'sha256': sha256(source),
            'config': Path(args.config).name,
        },
        versions=versions,
    )


def _number_of_images(
    batch: int | str | None, size: tuple[int, int] | None, task: str, format: str
) -> int | None:
    """Choose the size of a batch; None for any."""
    if task == 'detection':
        if size is None:
            raise UserError(
                'a whole detector is exported for one size: give --size H W, or --features'
            )
        if batch == DYNAMIC:
            raise UserError('a whole detector is exported for one size of a batch: give --batch N')
        return batch or 1
    if size is None and isinstance(batch, int) and format == 'torch-export':
        raise UserError(
            'torch-export files for any size take batches of any length: leave --batch out'
        )
    return None if batch in (None, DYNAMIC) else batch


def _megabytes(target: Path) -> float:
    """Size of a file, with the weights that OpenVINO keeps beside it."""
    weights = target.with_suffix('.bin')
    files = [target, weights] if target.suffix == '.xml' else [target]
    return sum(path.stat().st_size for path in files) / 1e6


def _mask_threshold(loaded: 'LoadedModel') -> float:
    rcnn = (loaded.cfg.model.get('test_cfg') or {}).get('rcnn') or {}
    return float(rcnn.get('mask_thr_binary', 0.5))


def _calibration_files(args: argparse.Namespace) -> list[Path]:
    """List the images of ``--calibration``, evenly spread over the folder."""
    if args.calibration is None:
        return []
    from mmvheat.cli.calibration import spread

    folder = Path(args.calibration)
    if not folder.is_dir():
        raise UserError(f'--calibration {folder} is no folder: give one with images')
    found = sorted(path for path in folder.rglob('*') if path.suffix.lower() in _SUFFIXES)
    if not found:
        raise UserError(f'--calibration {folder} has no images: give a folder with jpg, png, ...')
    return spread(found, args.calibration_images)


def _calibration(
    paths: list[Path],
    loaded: 'LoadedModel',
    facts: 'InputFacts',
    shape: 'Shape',
    own: tuple[int, int],
) -> 'Iterator[np.ndarray]':
    """Make images as the file takes them, by the config's test pipeline."""
    import torch
    import torch.nn.functional as F

    from mmvheat.cli.model import read_image

    for path in paths:
        image = loaded.prepare(read_image(str(path))).inputs
        # One size, so that they can be put in batches.
        image = F.interpolate(image, shape.size or own, mode='bilinear', align_corners=False)
        image = image.flip(1) if facts.bgr else image
        if shape.preprocess:
            mean, std = (torch.tensor(v).view(3, 1, 1) for v in (facts.mean, facts.std))
            image = (image * std + mean).round().clamp(0, 255).to(torch.uint8)
            image = image.permute(0, 2, 3, 1).contiguous()
        yield image.repeat(shape.batch or 1, 1, 1, 1).numpy()


def _report(checks: 'list[Check]') -> None:
    """Print what was compared, the worst of the images in each row."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        'images', 'batch', 'output', 'largest difference', 'allowed', box=None, pad_edge=False
    )
    rows: dict[tuple, list[Check]] = {}
    for check in checks:
        rows.setdefault((check.size, check.batch, check.output), []).append(check)
    for (size, batch, output), of_row in rows.items():
        worst = max(check.difference for check in of_row)
        allowed = of_row[0].allowed
        table.add_row(
            f'{size[0]} x {size[1]}',
            str(batch),
            output,
            f'{worst:.1e}',
            'not judged' if allowed is None else f'{allowed:.0e}',
        )
    Console(highlight=False, soft_wrap=True).print(table)


if __name__ == '__main__':
    run_main(main)
