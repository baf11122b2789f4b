"""Look at a checkpoint, or give it another form.

Usage: python -m mmvheat.checkpoint inspect FILE
       python -m mmvheat.checkpoint convert IN OUT --to published|mmpretrain|backbone|downstream
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.filesize import decimal

from mmvheat.checkpoint import Description, change_file, describe_checkpoint, read_checkpoint
from mmvheat.checkpoint.io.download import local_file
from mmvheat.checkpoint.io.reading import about_file
from mmvheat.errors import first_names
from mmvheat.models.arch import ARCHS
from mmvheat.ops import FREQ_EMBED_MODES

from .arguments import OneLineParser, add_key_and_force, add_size_argument, source_file
from .matching_configs import Use, arch_name, config_folder, find_uses

_CHUNK = 2**22
# What --to takes, and what it is called in Python.
_FORMS = {
    'published': 'published',
    'mmpretrain': 'classification',
    'backbone': 'backbone',
    'downstream': 'downstream',
}


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        prog='python -m mmvheat.checkpoint',
        description='Look at a checkpoint of vHeat, or give it another form.',
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    inspect = commands.add_parser(
        'inspect',
        help='say what a file is and which configs it fits',
        description='Say what a checkpoint is and which configs it fits, from names and shapes.',
        allow_abbrev=False,
    )
    inspect.add_argument('file', metavar='FILE', help='checkpoint, a file or a URL')
    inspect.add_argument('--key', help='entry to look at, for example model_ema')
    inspect.add_argument('--json', action='store_true', help='print JSON')
    convert = commands.add_parser(
        'convert',
        help='give a file another form',
        description='Rename the keys of a checkpoint, and fit its embeddings to another size.',
        allow_abbrev=False,
    )
    convert.add_argument('source', metavar='IN', help='checkpoint to convert, a file or a URL')
    convert.add_argument('target', metavar='OUT', help='file to write, .safetensors if it ends so')
    convert.add_argument(
        '--to',
        required=True,
        choices=_FORMS,
        help="published or mmpretrain: a classifier with that code's names; backbone: the backbone "
        'alone, with the names of mmvheat.models.VHeat; downstream: for detectors and segmentors, '
        'as interpolate4downstream.py makes it',
    )
    add_size_argument(convert, '--size', 'image size to fit it to: N or H W', required=False)
    add_size_argument(
        convert,
        '--pt_size',
        'image size it was trained at, to be checked: N or H W',
        required=False,
    )
    convert.add_argument(
        '--mode', choices=FREQ_EMBED_MODES, default='bicubic', help='how to resize (bicubic)'
    )
    add_key_and_force(convert)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: Arguments; the process's own if None.
    """
    args = _parse_args(argv)
    if args.command == 'inspect':
        _inspect(args)
    else:
        _convert(args)


def _convert(args: argparse.Namespace) -> None:
    report = change_file(
        source_file(args.source, args.target, args.force),
        args.target,
        _FORMS[args.to],
        args.size,
        args.pt_size,
        mode=args.mode,
        key=args.key,
        force=args.force,
    )
    fitted = f', fitted to {args.size[0]} x {args.size[1]} by {args.mode}' if args.size else ''
    print(f'{args.source}: {args.to}{fitted}')
    print(report.table())
    print(f'wrote {args.target}')


def _inspect(args: argparse.Namespace) -> None:
    path = local_file(args.file)
    checkpoint = read_checkpoint(path, mmap=True)
    with about_file(path):
        description = describe_checkpoint(checkpoint, args.key)
    size, digest = path.stat().st_size, _sha256(path)
    uses = find_uses(description, args.file, args.key)
    if args.json:
        backbone = description.backbone
        arch = None if backbone is None else arch_name(backbone)
        record = {'file': args.file, 'bytes': size, 'sha256': digest, 'arch': arch}
        record |= asdict(description) | {'uses': [asdict(use) for use in uses]}
        print(json.dumps(record, indent=2))
        return
    rows = [('size', f'{decimal(size)} ({size:,} bytes)'), ('sha256', digest)]
    rows += _rows(description)
    print(args.file)
    for label, text in rows:
        print(f'  {label:9} {text}')
    if description.backbone is not None:
        _print_uses(uses)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _rows(description: Description) -> list[tuple[str, str]]:
    """Describe a checkpoint in labelled lines."""
    entries = (f'{name}: {text}' for name, text in description.entries.items())
    where = f'{description.key!r}' if description.key else 'the file itself'
    dtypes = ', '.join(f'{count} {dtype}' for dtype, count in description.dtypes.items())
    millions = description.parameters / 1e6
    rows = [
        ('what', description.origin),
        ('entries', first_names(list(entries), 12) if description.key else 'its tensors'),
        ('weights', f'{where}: {millions:.3f} M parameters in tensors: {dtypes}'),
    ]
    if description.wrappers:
        rows.append(('names', 'with those of wrappers for training (module., _orig_mod.)'))
    if description.key == 'state_dict' and 'ema_state_dict' in description.entries:
        rows.append(('average', "'state_dict' is the average, 'ema_state_dict' the raw weights"))
    progress = {'epoch': 'epoch', 'iter': 'iteration'}
    if recorded := [f'{progress[n]} {value}' for n, value in description.progress.items()]:
        rows.append(('recorded', ', '.join(recorded)))
    if description.backbone is None:
        return [*rows, ('model', f'no vHeat that can be told: {description.problem}')]
    classes = '' if description.num_classes is None else f', {description.num_classes} classes'
    if description.class_names:
        classes += f' ({first_names(list(description.class_names), 4)})'
    rows.append(('model', description.kind + classes))
    return rows + _backbone_rows(description)


def _backbone_rows(description: Description) -> list[tuple[str, str]]:
    backbone = description.backbone
    name = arch_name(backbone)
    ratios = sorted({round(ratio, 4) for ratio in backbone.mlp_ratios})
    facts = [
        f'depths {_listed(backbone.depths)}',
        f'dims {_listed(backbone.dims)}',
        f'MLP ratio {_listed(f"{ratio:g}" for ratio in ratios)}',
        'layer scale' if backbone.layer_scale else 'no layer scale',
    ]
    if name:
        facts.append(f'post_norm={ARCHS[name].post_norm} as published')
    else:
        facts.append('post_norm cannot be told from names and shapes')
    if backbone.in_channels != 3:
        facts.append(f'{backbone.in_channels} input channels')
    form = 'folded for inference, this size alone' if backbone.folded else 'training form, any size'
    rows = [
        ('backbone', f'{name or "vHeat"}: {"; ".join(facts)}'),
        ('form', form),
        ('images', _image_sizes(backbone.heights, backbone.widths)),
        (
            'norms',
            f'of stages {_listed(backbone.output_norms)}' if backbone.output_norms else 'none',
        ),
    ]
    amiss = {
        'missing': backbone.missing,
        'unknown': backbone.unknown,
        'misshaped': [
            f'{name} {given}, not {wanted}' for name, (given, wanted) in backbone.misshaped.items()
        ],
    }
    return rows + [(kind, first_names(list(names), 3)) for kind, names in amiss.items() if names]


def _image_sizes(heights: tuple[int, int] | None, widths: tuple[int, int] | None) -> str:
    if not heights or not widths:
        return 'no image size fits the embeddings of all stages'
    (low, high), (left, right) = heights, widths
    same = '' if (low, left) == (high, right) else f': {low} to {high} x {left} to {right} alike'
    return f'{high} x {right} (maps are rounded up{same})'


def _print_uses(uses: list[Use]) -> None:
    if not uses:
        print('  use       fits none of our configs')
        return
    note = '' if config_folder() else ' (they are in the clone; this installation has none)'
    fitting = any(use.configs for use in uses)
    print(
        f'  use       by kind, arch and classes it fits our configs{note}:' if fitting else '  use'
    )
    for use in uses:
        print(f'    - {use.purpose}:')
        print(f'        {use.command}')
        for config in use.configs:
            print(f'          {config}')


def _listed(values: Sequence) -> str:
    return ', '.join(map(str, values))
