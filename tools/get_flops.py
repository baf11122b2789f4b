"""Count the parameters and FLOPs of a config's model, or of all published ones."""

import argparse
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

from mmvheat.cli.arguments import CfgOptions, OneLineParser
from mmvheat.cli.command import run_command
from mmvheat.errors import UserError, config_errors

ROOT = Path(__file__).resolve().parents[1]
# What the published tables are for, (height, width): each library's own get_flops.py has another.
SHAPES = {'mmpretrain': (224, 224), 'mmdet': (800, 1280), 'mmseg': (512, 2048)}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = OneLineParser(
        description='Print the parameters and FLOPs (multiply-adds for one image) of a model, the '
        'cosine transforms counted in full.'
    )
    parser.add_argument(
        'config', nargs='?', help='config file of a classifier, detector, segmentor'
    )
    parser.add_argument(
        '--shape',
        nargs='+',
        type=int,
        metavar='N',
        help='height and width of the image, or one number for both (classifiers 224, detectors '
        '800 1280, segmentors 512 2048)',
    )
    parser.add_argument(
        '--inference-form',
        action='store_true',
        help='count with k and the decay computed beforehand for this shape',
    )
    parser.add_argument(
        '--table',
        action='store_true',
        help='print the published figures beside the counted ones, for all configs that have them',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='override settings of the config',
    )
    args = parser.parse_args(argv)
    if args.table == bool(args.config):
        parser.error('give a config or --table')
    if args.table and (args.shape or args.inference_form or args.cfg_options):
        parser.error('--table goes alone: it counts what was published')
    if args.shape and (len(args.shape) > 2 or min(args.shape) < 1):
        parser.error(f'--shape is one or two numbers >= 1, got {" ".join(map(str, args.shape))}')
    return args


def main(argv: list[str] | None = None) -> None:
    """Count and print."""
    args = parse_args(argv)
    if args.table:
        print_table()
        return
    shape = tuple(args.shape * 2 if len(args.shape) == 1 else args.shape) if args.shape else None
    shape, counted = count(args.config, shape, args.inference_form, args.cfg_options)
    form = 'inference form' if args.inference_form else 'training form'
    sys.stdout.write(
        f'{args.config}: {counted.parameters / 1e6:.3f} M parameters, '
        f'{counted.flops / 1e9:.3f} GFLOPs (a multiply-add is one) '
        f'at {shape[0]} x {shape[1]} (H x W), {form}\n'
    )


def count(
    config: str,
    shape: tuple[int, int] | None,
    inference_form: bool | None,
    cfg_options: dict | None = None,
):
    """Count a config's model; what is None is as in the published tables."""
    import torch
    from mmengine.logging import MMLogger
    from mmengine.registry import MODELS, DefaultScope

    from mmvheat.cli.config import load_config
    from mmvheat.models.counting import count_model

    cfg = load_config(config, cfg_options)
    if cfg.get('model') is None:
        raise UserError(f'{config} has no model: give the config of an experiment')
    scope = cfg.default_scope
    if inference_form is None:
        inference_form = scope == 'mmpretrain'
    shape = shape or SHAPES[scope]
    # What the libraries say while they build a model is not about its size.
    MMLogger.get_current_instance().setLevel('ERROR')
    with config_errors(config), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with DefaultScope.overwrite_default_scope(scope), torch.device('meta'):
            model = MODELS.build(cfg.model)
        return shape, count_model(model, shape, inference_form)


def print_table() -> None:
    """Print the published figures beside the counted ones."""
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    # A narrow terminal breaks lines better than the table breaks names.
    console = Console(highlight=False, width=max(Console().width, 110))
    table = Table(box=None, pad_edge=False)
    table.add_column('config')
    for name in ('shape', 'params (M)', 'published', 'FLOPs (G)', 'published'):
        table.add_column(name, justify='right')
    rows = read_published(ROOT / 'configs')
    for row in track(rows, 'Counting', console=console, transient=True):
        shape, counted = count(str(ROOT / row.config), None, None)
        table.add_row(
            row.name,
            f'{shape[0]}x{shape[1]}',
            f'{counted.parameters / 1e6:.2f}',
            f'{row.parameters / 1e6:.0f}',
            f'{counted.flops / 1e9:.2f}',
            f'{row.flops / 1e9:.4g}',
        )
    console.print(table)
    console.print(
        'published: as reported by the paper. Classifiers in the inference form, others in the '
        'training form; docs/counting.md says what counts.'
    )


@dataclass(frozen=True)
class PublishedModel:
    """A row of the published tables.

    Attributes:
        name: Name of the config.
        config: Its path in the repository.
        parameters: Reported number of parameters.
        flops: Reported multiply-adds.
    """

    name: str
    config: str
    parameters: float
    flops: float


def read_published(configs: Path) -> list[PublishedModel]:
    """Read the rows whose parameters and FLOPs were reported, in the metafiles' order.

    Args:
        configs: Folder with a ``metafile.yml`` in its subfolders.

    Raises:
        UserError: If there is none.
    """
    import yaml

    files = sorted(configs.glob('*/metafile.yml'))
    if not files:
        raise UserError(f'{configs} has no metafile.yml in a subfolder: give the configs folder')
    models = [model for file in files for model in yaml.safe_load(file.read_text())['Models']]
    return [
        PublishedModel(
            model['Name'],
            model['Config'],
            model['Metadata']['Parameters'],
            model['Metadata']['FLOPs'],
        )
        for model in models
        if 'FLOPs' in model['Metadata']
    ]


if __name__ == '__main__':
    sys.exit(run_command(main))
