"""Draw what a vHeat does: heat from a point, diffusivity, receptive fields, activations."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmvheat.cli.arguments import MODES, CfgOptions, OneLineParser, add_size_argument
from mmvheat.cli.command import run_command
from mmvheat.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from mmvheat.cli.model import Image, LoadedModel
    from mmvheat.models import VHeat

_TIMES = (0.0, 0.25, 1.0, 4.0, 16.0)
_RIVALS = ('swin_tiny_patch4_window7_224', 'convnext_tiny')
# Of channels, where the most conducting are shown.
_MOST = 4
# They are written as SVG, too.
_WITH_CURVES = ('decay', 'erf', 'spectrum')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = OneLineParser(description='Draw what a vHeat does. WHAT --help lists the options.')
    kinds = parser.add_subparsers(dest='what', metavar='WHAT', required=True)

    heat = _add(kinds, 'heat', 'how heat spreads from a pixel', images='*')
    _add_block(heat)
    text = 'of the image as the model gets it, from 0 (the centre)'
    heat.add_argument('--pixel', type=int, nargs=2, metavar=('ROW', 'COLUMN'), help=text)
    text = 'they multiply k; 1 is what the block does (0 0.25 1 4 16)'
    heat.add_argument('--times', type=float, nargs='+', metavar='T', default=_TIMES, help=text)
    text = 'mean (all), most (the quarter that conducts most) or the number of one (mean)'
    heat.add_argument('--channels', default='mean', help=text)
    heat.add_argument('--k', type=float, help='the same k for all frequencies and channels')
    _add_size(heat, 'size of the images, without one')

    diffusivity = _add(kinds, 'diffusivity', 'k of each frequency')
    _add_block(diffusivity)
    _add_groups(diffusivity)
    _add_size(diffusivity, 'draw k for images of this size, too')
    text = 'how k is fitted to --size (bicubic, as the backbone does)'
    diffusivity.add_argument('--mode', choices=MODES, default='bicubic', help=text)

    decay = _add(kinds, 'decay', 'what a block leaves of each frequency')
    _add_block(decay)
    _add_groups(decay)
    _add_size(decay, 'for images of this size')

    erf = _add(kinds, 'erf', 'effective receptive field, before training, too', images='*')
    _add_size(erf, 'size of the noise, without images')
    text = 'images of noise, where none are given (8)'
    erf.add_argument('--samples', type=_positive, default=8, metavar='N', help=text)
    text = f'models of timm beside it; without a name {" ".join(_RIVALS)}'
    erf.add_argument('--compare', nargs='*', metavar='NAME', help=text)
    text = 'with the weights that timm downloads, instead of random ones'
    erf.add_argument('--compare-pretrained', action='store_true', help=text)

    _add(kinds, 'features', 'maps of the stages', images='+')

    spectrum = _add(kinds, 'spectrum', 'spectrum before and after conduction', images='+')
    _add_block(spectrum)

    cam = _add(kinds, 'cam', 'class activation maps', images='+')
    cam.add_argument('--stage', type=int, default=-1, metavar='S', help='stage, from 0 (the last)')
    text = 'grad: Grad-CAM, eigen: Eigen-CAM, which knows no class (both)'
    cam.add_argument('--method', choices=('grad', 'eigen'), help=text)
    text = 'its name or number (the likeliest in the image)'
    cam.add_argument('--class', dest='label', metavar='CLASS', help=text)
    return parser.parse_args(argv)


def _add(kinds: Any, name: str, help: str, images: str = '') -> argparse.ArgumentParser:
    """Add a kind of picture with the options that all have."""
    parser = kinds.add_parser(name, help=help, description=f'Draw the {help}.')
    parser.add_argument('config', help='config file of a classifier, detector or segmentor')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    if images:
        parser.add_argument('images', nargs=images, metavar='image', help='image file')
    add = parser.add_argument
    add('--out-dir', default='outputs', metavar='DIR', help='folder for the pictures (outputs)')
    add('--force', action='store_true', help='replace pictures that exist')
    add('--device', help='cpu, cuda, cuda:1, ... (the GPU if there is one)')
    text = 'override settings of the config'
    add('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help=text)
    parser.set_defaults(images=[])
    return parser


def _add_block(parser: argparse.ArgumentParser) -> None:
    text = 'stage, from 0; negative ones count from the last (all)'
    parser.add_argument('--stage', type=int, metavar='S', help=text)
    text = 'block of the stage, from 0; negative ones count from the last (the last)'
    parser.add_argument('--block', type=int, default=-1, metavar='B', help=text)


def _add_groups(parser: argparse.ArgumentParser) -> None:
    text = 'groups that the channels are split into, by how well they conduct (4)'
    parser.add_argument('--groups', type=_positive, default=4, metavar='N', help=text)


def _add_size(parser: argparse.ArgumentParser, help: str) -> None:
    add_size_argument(parser, '--size', f"{help}: N or H W, in pixels (the config's)", False)


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 1')
    return int(text)


class Drawn(NamedTuple):
    """A picture and the numbers behind it.

    Attributes:
        figure: The picture.
        columns: Names of the columns of the table.
        rows: Rows of the table.
    """

    figure: 'Figure'
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


def main(argv: list[str] | None = None) -> None:
    """Compute, draw, write, and print the numbers."""
    args = parse_args(argv)
    from mmvheat.cli.config import writable_folder
    from mmvheat.cli.model import check_device, load_model, read_image
    from mmvheat.visualization.plots import save_figure

    arrays = [read_image(path) for path in args.images]
    outs = _choose_outs(args)
    loaded = load_model(args.config, args.checkpoint, args.cfg_options, check_device(args.device))
    images = [loaded.prepare(array) for array in arrays]
    draw = globals()[f'draw_{args.what}']
    if args.what == 'erf':
        drawn = [draw(args, loaded, images)]
    else:
        drawn = [draw(args, loaded, image) for image in images or [None]]
    writable_folder(args.out_dir, '--out-dir')
    for one, paths in zip(drawn, outs, strict=True):
        for path in paths:
            save_figure(one.figure, path)
        _report(one, paths)


def draw_heat(args: argparse.Namespace, loaded: 'LoadedModel', image: 'Image | None') -> Drawn:
    """Draw how heat spreads from a pixel; with an image from what it makes of the pixel."""
    import torch

    from mmvheat import visualization as vis
    from mmvheat.visualization.plots import plot_point_heat

    backbone = vis.find_backbone(loaded.model)
    size = _image_size(args, backbone) if image is None else tuple(image.inputs.shape[2:])
    seen = size if image is None else image.picture.shape[:2]
    pixel = (seen[0] // 2, seen[1] // 2) if args.pixel is None else tuple(args.pixel)
    vis.map_cell(pixel, seen, seen)
    maps, names, rows = [], [], []
    for stage, block, name in _blocks(args, backbone):
        k = vis.block_diffusivity(backbone, stage, block, size)
        cell = vis.map_cell(pixel, size, k.shape[:2])
        channel = weights = None
        if image is not None:
            weights = vis.operator_input(backbone, image.inputs, stage, block)[0][cell].abs()
        if args.channels == 'most':
            most = vis.channel_groups(k, min(_MOST, k.size(2)))[-1]
            chosen = torch.zeros_like(k[0, 0]).index_fill_(0, most, 1)
            weights = chosen if weights is None else weights * chosen
        elif args.channels != 'mean':
            channel = _number(args.channels)
        if args.k is not None:
            k = vis.constant_diffusivity(k.shape[:2], args.k, k.size(2)).to(k)
        maps.append(vis.point_heat(k, cell, args.times, channel, weights))
        names.append(name)
        for time, temperature in zip(args.times, maps[-1], strict=True):
            values = temperature[cell], temperature.min(), temperature.sum()
            rows.append((name, f'{time:g}', *(f'{round(one, 4) + 0:.4f}' for one in values)))
    most = 'the quarter of the channels that conducts most'
    what = {'mean': 'mean over channels', 'most': most}.get(args.channels, f'channel {channel}')
    k = 't = 1 is what the block does' if args.k is None else f'k = {args.k:g} cells²'
    title = _title(f'Heat from pixel {pixel[0]}, {pixel[1]}: {what}; {k}', args)
    shown = None if image is None else image.picture
    figure = plot_point_heat(maps, args.times, names, size, pixel, title, shown)
    return Drawn(figure, ('block', 't', 'at the source', 'coldest', 'heat in all'), rows)


def draw_diffusivity(args: argparse.Namespace, loaded: 'LoadedModel', _: None) -> Drawn:
    """Draw k of each frequency, by groups of channels; once more for another image size."""
    from mmvheat import visualization as vis
    from mmvheat.visualization.plots import plot_diffusivity

    backbone = vis.find_backbone(loaded.model)
    own = backbone.folded_for or backbone.img_size
    maps, names, rows = [], [], []
    for stage, block, name in _blocks(args, backbone):
        groups = _groups(args, vis.block_diffusivity(backbone, stage, block))
        for size in dict.fromkeys((own, args.size or own)):
            k = vis.block_diffusivity(backbone, stage, block, size, args.mode)
            maps.append(vis.group_means(k, groups))
            names.append(f'{name}\nimages of {size[0]} × {size[1]}')
            for i, group in enumerate(groups):
                part = k[..., group]
                rows.append((name, f'{size[0]} x {size[1]}', i, f'{part.mean():.4f}',
                             f'{part.max():.4f}', f'{(part == 0).float().mean():.1%}'))  # fmt: skip
    columns = ('block', 'images', 'group', 'mean k', 'largest k', 'k = 0')
    return Drawn(plot_diffusivity(maps, names, _title('Diffusivity k(n, m)', args)), columns, rows)


def draw_decay(args: argparse.Namespace, loaded: 'LoadedModel', _: None) -> Drawn:
    """Draw what is left of each frequency, by groups of channels."""
    import numpy as np

    from mmvheat import visualization as vis
    from mmvheat.visualization.plots import plot_decay

    backbone = vis.find_backbone(loaded.model)
    maps, names, rows = [], [], []
    for stage, block, name in _blocks(args, backbone):
        k = vis.block_diffusivity(backbone, stage, block, _image_size(args, backbone))
        maps.append(vis.group_means(vis.heat_at(k, 1), _groups(args, k)))
        names.append(name)
        for i, left in enumerate(maps[-1]):
            at = np.interp((np.pi / 4, np.pi / 2, np.pi), *vis.radial_profile(left))
            rows.append((name, i, *(f'{one:.1%}' for one in at)))
    columns = ('block', 'group', 'left at π/4', 'at π/2', 'at π rad/cell')
    title = _title('What a block leaves of each frequency', args)
    return Drawn(plot_decay(maps, names, title), columns, rows)


def draw_erf(args: argparse.Namespace, loaded: 'LoadedModel', images: 'list[Image]') -> Drawn:
    """Draw effective receptive fields: trained, before training, and of other models."""
    import torch

    from mmvheat import visualization as vis
    from mmvheat.cli.model import build_model
    from mmvheat.visualization.plots import plot_receptive_fields

    backbone = vis.find_backbone(loaded.model)
    device = next(backbone.parameters()).device
    inputs = [image.inputs for image in images]
    if len({one.shape for one in inputs}) > 1:
        raise UserError('the images have several sizes: give images of one size')
    size = _image_size(args, backbone)
    inputs = torch.cat(inputs) if inputs else vis.noise_images(args.samples, size).to(device)
    size = tuple(inputs.shape[2:])
    torch.manual_seed(0)
    untrained = vis.find_backbone(build_model(loaded.cfg, args.config)).to(device)
    models = {'vHeat\ntrained': vis.last_map(backbone)}
    models['vHeat\nbefore training'] = vis.last_map(untrained)
    for name in _RIVALS if args.compare == [] else args.compare or ():
        state = 'trained' if args.compare_pretrained else 'before training'
        made = vis.timm_map(name, size, args.compare_pretrained, device)
        models[f'{name.partition("_patch")[0]}\n{state}'] = made
    fields = [vis.receptive_field(compute, inputs) for compute in models.values()]
    rows = [
        (
            name.replace('\n', ', '),
            *(f'{one.area:.1%} ({one.side} px)' for one in vis.squares(field)),
        )
        for name, field in zip(models, fields, strict=True)
    ]
    columns = ('area that holds', *(f'{share:.0%}' for share in vis.SHARES))
    count = f'{len(inputs)} {"images" if images else "images of noise"}'
    title = f'Effective receptive fields, {count} of {size[0]} × {size[1]}'
    return Drawn(plot_receptive_fields(fields, list(models), title), columns, rows)


def draw_features(args: argparse.Namespace, loaded: 'LoadedModel', image: 'Image') -> Drawn:
    """Draw the maps of all stages."""
    from mmvheat import visualization as vis
    from mmvheat.visualization.plots import plot_features

    found = vis.stage_maps(vis.find_backbone(loaded.model), image.inputs)
    maps = [one[0].cpu().numpy() for one in found]
    rows = [
        (f'stage {i}', ' x '.join(map(str, one.shape)), f'{(one**2).mean() ** 0.5:.3f}')
        for i, one in enumerate(maps)
    ]
    figure = plot_features(
        maps, image.picture, image.inputs.shape[2:], _title('Maps of the stages', args)
    )
    return Drawn(figure, ('stage', 'map', 'rms'), rows)


def draw_spectrum(args: argparse.Namespace, loaded: 'LoadedModel', image: 'Image') -> Drawn:
    """Draw the spectrum of what blocks conduct, before and after."""
    from mmvheat import visualization as vis
    from mmvheat.ops import conduct
    from mmvheat.visualization.plots import plot_spectrum

    backbone = vis.find_backbone(loaded.model)
    before, after, names, rows = [], [], [], []
    for stage, block, name in _blocks(args, backbone):
        k = vis.block_diffusivity(backbone, stage, block, tuple(image.inputs.shape[2:]))
        heat = vis.operator_input(backbone, image.inputs, stage, block)
        before.append(vis.magnitude_spectrum(heat))
        after.append(vis.magnitude_spectrum(conduct(heat, vis.heat_at(k, 1))))
        names.append(name)
        energy = [(one**2).sum() - one[0, 0] ** 2 for one in (before[-1], after[-1])]
        left = f'{energy[1] / energy[0]:.1%}' if energy[0] else '-'
        rows.append((name, f'{after[-1][0, 0]:.3f}', left))
    title = _title('Spectrum of the heat that blocks conduct', args)
    columns = ('block', 'constant part', 'energy left of all others')
    return Drawn(plot_spectrum(before, after, names, title), columns, rows)


def draw_cam(args: argparse.Namespace, loaded: 'LoadedModel', image: 'Image') -> Drawn:
    """Draw class activation maps over an image."""
    import numpy as np

    from mmvheat import visualization as vis
    from mmvheat.cli.class_scores import class_score
    from mmvheat.visualization.plots import plot_activations

    backbone = vis.find_backbone(loaded.model)
    maps, names, rows = [], [], []
    for method in vis.CAM_METHODS if args.method is None else [args.method]:
        name, score = 'Eigen-CAM', lambda images: backbone(images)[-1].sum((1, 2, 3))
        if method == 'grad':
            label = None if args.label is None else loaded.class_index(args.label)
            score, label = class_score(loaded, image, label)
            name = f'Grad-CAM for {loaded.class_name(label)}'
        found = vis.class_activation(score, backbone, image.inputs, args.stage, method)[0]
        maps.append(found[: image.picture.shape[0], : image.picture.shape[1]])
        names.append(name)
        place = np.unravel_index(maps[-1].argmax(), maps[-1].shape)
        rows.append((name, f'{place[0]}, {place[1]}', f'{(maps[-1] >= 0.5).mean():.1%}'))
    stage = args.stage % len(backbone.layers)
    title = _title(f'Class activations of stage {stage}', args)
    columns = ('map', 'most at pixel', 'area of 0.5 and more')
    return Drawn(plot_activations(maps, names, image.picture, title), columns, rows)


def _blocks(args: argparse.Namespace, backbone: 'VHeat') -> list[tuple[int, int, str]]:
    """Choose blocks, a stage, place and name each: those of the options, or the stages' last."""
    from mmvheat.visualization import find_block

    stages = range(len(backbone.layers)) if args.stage is None else [args.stage]
    chosen = []
    for stage in stages:
        find_block(backbone, stage, args.block)
        stage %= len(backbone.layers)
        block = args.block % backbone.layers[stage].depth
        chosen.append((stage, block, f'stage {stage}, block {block}'))
    return chosen


def _groups(args: argparse.Namespace, k: 'Tensor') -> 'list[Tensor]':
    from mmvheat.visualization import channel_groups

    return channel_groups(k, args.groups)


def _image_size(args: argparse.Namespace, backbone: 'VHeat') -> tuple[int, int]:
    return args.size or backbone.folded_for or backbone.img_size


def _number(text: str) -> int:
    if not text.isdecimal():
        raise UserError(f'--channels is mean, most or the number of one from 0, got {text!r}')
    return int(text)


def _title(what: str, args: argparse.Namespace) -> str:
    return f'{what}\n{Path(args.config).stem}'


def _choose_outs(args: argparse.Namespace) -> list[list[Path]]:
    """Choose the names of all pictures: each image has one, a receptive field is over them all."""
    stem = f'{args.what}_{Path(args.config).stem}'
    stems = [stem]
    if args.images and args.what != 'erf':
        stems = [f'{stem}_{Path(image).stem}' for image in args.images]
    suffixes = ('.png', '.svg') if args.what in _WITH_CURVES else ('.png',)
    outs = [[Path(args.out_dir, stem + suffix) for suffix in suffixes] for stem in stems]
    for path in (path for paths in outs for path in paths):
        if stems.count(path.stem) > 1:
            raise UserError(f'two images would give {path}: give one of them another name')
        if path.exists() and not args.force:
            raise UserError(f'{path} exists: give --force to replace it, or another --out-dir')
        if path.is_dir():
            raise UserError(f'{path} is a folder: give another --out-dir')
    return outs


def _report(drawn: Drawn, paths: Sequence[Path]) -> None:
    """Print the numbers behind a picture and where it is."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True, width=max(Console().width, 110))
    table = Table(*drawn.columns, box=None, pad_edge=False)
    for row in drawn.rows:
        table.add_row(*map(str, row))
    console.print(table)
    for path in paths:
        console.print(f'picture: {path}', markup=False)


if __name__ == '__main__':
    sys.exit(run_command(main))
