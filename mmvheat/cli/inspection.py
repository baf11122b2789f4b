"""``python -m mmvheat.checkpoint inspect``: what a file is, and which configs it fits."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.filesize import decimal

from mmvheat.checkpoint import Backbone, Description, describe_checkpoint, read_checkpoint
from mmvheat.checkpoint.io.download import local_file
from mmvheat.checkpoint.io.reading import about_file
from mmvheat.errors import first_names
from mmvheat.models.arch import ARCHS, VHeatArch, arch_name
from mmvheat.models.published_weights import PUBLISHED_CLASSIFIERS

from .matching_configs import Use, config_folder, find_uses

__all__ = ['inspect', 'sha256']

_CHUNK = 2**22


def inspect(file: str, key: str | None, as_json: bool) -> None:
    """Print what a checkpoint is.

    Args:
        file: Its path or address.
        key: Entry to look at; the first with weights if None.
        as_json: Whether to print JSON instead of lines.

    Raises:
        UserError: If it cannot be read, or holds no weights.
    """
    path = local_file(file)
    checkpoint = read_checkpoint(path, mmap=True)
    with about_file(path):
        description = describe_checkpoint(checkpoint, key)
    size, digest = path.stat().st_size, sha256(path)
    uses = find_uses(description, file, key)
    if as_json:
        backbone = description.backbone
        arch = None if backbone is None else arch_name(backbone)
        record = {'file': file, 'bytes': size, 'sha256': digest, 'arch': arch}
        record |= asdict(description) | {'uses': [asdict(use) for use in uses]}
        print(json.dumps(record, indent=2))
        return
    rows = [('size', f'{decimal(size)} ({size:,} bytes)'), ('sha256', digest)]
    rows += _rows(description)
    print(file)
    for label, text in rows:
        print(f'  {label:9} {text}')
    if description.backbone is not None:
        _print_uses(uses)


def sha256(path: Path) -> str:
    """Compute the digest of a file, in hexadecimal digits."""
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
    variant = ('operator', 'diffusivity', 'dwconv', 'patch_size')
    facts += [
        f'{field}={getattr(backbone, field)}'
        for field in variant
        if getattr(backbone, field) != getattr(VHeatArch, field)
    ]
    if name:
        source = 'as published' if name in PUBLISHED_CLASSIFIERS else 'as in that arch'
        facts.append(f'post_norm={ARCHS[name].post_norm} {source}')
    else:
        facts.append('post_norm cannot be told from names and shapes')
    if backbone.in_channels != 3:
        facts.append(f'{backbone.in_channels} input channels')
    form = 'folded for inference, this size alone' if backbone.folded else 'training form, any size'
    rows = [
        ('backbone', f'{name or "vHeat"}: {"; ".join(facts)}'),
        ('form', form),
        ('images', _image_sizes(backbone)),
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


def _image_sizes(backbone: Backbone) -> str:
    if not backbone.heights or not backbone.widths:
        if not backbone.is_sized:
            return 'nothing in it is made for one size'
        return 'no image size fits the embeddings of all stages'
    (low, high), (left, right) = backbone.heights, backbone.widths
    same = '' if (low, left) == (high, right) else f': {low} to {high} x {left} to {right} alike'
    return f'{high} x {right} (maps are rounded up{same})'


def _print_uses(uses: list[Use]) -> None:
    if not uses:
        print('  use       fits none of our configs')
        return
    top = config_folder().parent
    note = f' (in {top})' if top.name == '.mim' else ''
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
