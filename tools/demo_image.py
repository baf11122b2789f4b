"""Draw what a classifier, detector or segmentor finds in an image: the config's scope decides."""

import argparse
import io
import os
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from mmvheat.cli.arguments import OneLineParser
from mmvheat.cli.command import run_command
from mmvheat.cli.config import load_config, require, writable_folder
from mmvheat.cli.model import check_device, hush, read_image
from mmvheat.errors import UserError, config_errors

# Names and scores on a smaller picture cannot be read.
_SHORTEST_SIDE = 384
_TOP = 5
_COLUMNS = {
    'mmpretrain': ('class', 'score'),
    'mmdet': ('class', 'found', 'best score'),
    'mmseg': ('class', 'share of the area'),
}


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

    from mmengine.registry import MODELS, init_default_scope

    from mmvheat.cli.preflight import open_checkpoint

    checkpoint = open_checkpoint(args.checkpoint)
    checkpoint.check_weights()
    cfg = load_config(args.config)
    require(cfg, args.config, ('model', 'test_dataloader'), 'testing')
    hush()
    init_default_scope(cfg.default_scope)
    # What the libraries print belongs to their own command lines.
    with redirect_stdout(io.StringIO()):
        with config_errors(args.config):
            # The inferencers would only warn.
            checkpoint.check_fit(MODELS.build(cfg.model), exact=True)
            writable_folder(str(out.parent), '--out')
            inferencer = _build_inferencer(cfg, args.checkpoint, device)
        sample, classes = _predict(inferencer, cfg.default_scope, args)
        rows = _describe(sample, classes, cfg.default_scope)
        picture = _draw(inferencer, cfg.default_scope, image, sample, args)
    _write(picture, out)
    _report(rows, _COLUMNS[cfg.default_scope], out)


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


def _build_inferencer(cfg: Any, checkpoint: str, device: str) -> Any:
    """Build the inferencer of the config's library; its visualizer keeps no files."""
    if cfg.default_scope == 'mmpretrain':
        from mmpretrain import ImageClassificationInferencer

        return ImageClassificationInferencer(cfg, pretrained=checkpoint, device=device)
    if cfg.default_scope == 'mmdet':
        from mmdet.apis import DetInferencer

        cfg.visualizer = dict(type='DetLocalVisualizer')
        return DetInferencer(cfg, checkpoint, device=device, show_progress=False)
    from mmseg.apis import MMSegInferencer

    cfg.visualizer = dict(type='SegLocalVisualizer')
    return MMSegInferencer(cfg, checkpoint, device=device)


def _predict(inferencer: Any, scope: str, args: argparse.Namespace) -> tuple[Any, Any]:
    """Predict; of detections only those with a high enough score are kept."""
    result = inferencer(args.image, return_datasamples=True)
    if scope == 'mmpretrain':
        return result[0].cpu(), inferencer.classes
    sample = (result['predictions'][0] if scope == 'mmdet' else result).cpu()
    if scope == 'mmdet':
        found = sample.pred_instances
        sample.pred_instances = found[found.scores >= args.score_thr]
    return sample, inferencer.model.dataset_meta['classes']


def _describe(sample: Any, classes: Any, scope: str) -> list[tuple[str, ...]]:
    """Say what was found, the most important first."""

    def name(label: int) -> str:
        return classes[label] if classes and label < len(classes) else f'class {label}'

    if scope == 'mmpretrain':
        scores = sample.pred_score
        best = scores.topk(min(_TOP, len(scores)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(name(label), f'{score:.3f}') for label, score in pairs]
    labels = sample.pred_instances.labels if scope == 'mmdet' else sample.pred_sem_seg.data
    found, counts = labels.unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True).tolist()
    if scope == 'mmseg':
        share = counts / counts.sum()
        return [(name(found[i]), f'{share[i]:.1%}') for i in order]
    scores = sample.pred_instances.scores
    best = [scores[labels == label].max() for label in found]
    return [(name(found[i]), str(counts[i].item()), f'{best[i]:.3f}') for i in order]


def _draw(inferencer: Any, scope: str, image: Any, sample: Any, args: argparse.Namespace) -> Any:
    """Draw with the inferencer's visualizer, small images enlarged; the picture is BGR."""
    import numpy as np

    factor = -(-_SHORTEST_SIDE // min(image.shape[:2]))
    canvas = image[..., ::-1].repeat(factor, 0).repeat(factor, 1)
    if scope == 'mmpretrain':
        with tempfile.TemporaryDirectory() as folder:
            (picture,) = inferencer.visualize([canvas], [sample], show=args.show, show_dir=folder)
    elif scope == 'mmdet':
        found = sample.pred_instances
        found.bboxes = found.bboxes * factor
        if 'masks' in found:
            found.masks = found.masks.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        (picture,) = inferencer.visualize(
            [canvas], [sample], return_vis=True, show=args.show, pred_score_thr=args.score_thr
        )
    else:
        labels = sample.pred_sem_seg.data
        sample.pred_sem_seg = type(sample.pred_sem_seg)(
            data=labels.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        )
        (picture,) = inferencer.visualize([canvas], [sample], return_vis=True, show=args.show)
    return np.ascontiguousarray(picture[..., ::-1])


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
