"""Predict with an exported model and draw it, without torch and OpenMMLab.

This file needs numpy, pillow and the model's runtime (onnxruntime for .onnx, openvino for .xml,
torch for .pt2 and .torchscript), and nothing else of the project: copy it beside the model.
"""

import argparse
import colorsys
import io
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

_RUNTIMES = {
    '.onnx': 'onnxruntime',
    '.xml': 'openvino',
    '.pt2': 'torch',
    '.torchscript': 'torch',
}
_KEY = 'mmvheat'
_COLUMNS = {
    'classification': ('class', 'score'),
    'segmentation': ('class', 'share of the area'),
    'detection': ('class', 'found', 'best score'),
}
# Okabe and Ito, Color Universal Design (2008), as in the project's other pictures.
_COLOURS = ('#0072b2', '#e69f00', '#009e73', '#d55e00', '#cc79a7', '#56b4e9')
# Names and scores on a smaller picture cannot be read.
_SHORTEST_SIDE, _LONGEST_SIDE = 384, 2048
_MISTAKE = 2


class Mistake(Exception):
    """What the user gave cannot work; the message is one line."""


class Parser(argparse.ArgumentParser):
    """Reports a mistake on the command line in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and exit."""
        self.exit(_MISTAKE, f'error: {message} (--help lists the arguments)\n')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description='Predict with an exported model, and draw what it finds.')
    add = parser.add_argument
    add('model', help='.onnx, .xml, .pt2 or .torchscript file of tools/export.py')
    add('images', nargs='+', metavar='image', help='image file')
    add('--out', default='outputs', metavar='DIR', help='folder for the pictures (outputs)')
    add('--json', metavar='FILE', help='write the results to this file, too')
    add('--score-thr', type=float, metavar='X', help="lowest score of a detection (the model's)")
    add('--top-k', type=_positive, default=5, metavar='K', help='classes of an image to show (5)')
    add('--device', default='cpu', help='cpu; cuda; with OpenVINO also gpu and auto (cpu)')
    add('--force', action='store_true', help='replace files that exist')
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 1')
    return int(text)


def main(argv: list[str] | None = None) -> None:
    """Predict, print what was found, and write the pictures."""
    args = parse_args(argv)
    outs = _choose_outs(args)
    for path in args.images:
        read_image(path)
    model = load_model(args.model, args.device)
    try:
        for path in [*outs, *([Path(args.json)] if args.json else [])]:
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Mistake(f'{path.parent} cannot be made: {error.strerror}') from error
    results = []
    for path, out in zip(args.images, outs, strict=True):
        image = read_image(path)
        found = model.predict(image, args.score_thr, args.top_k)
        _print_table(path, _COLUMNS[found.task], found.rows)
        _write(out, _png(draw(image, found)))
        print(f'picture: {out}')
        results.append({'image': path, 'size': [image.height, image.width], **found.as_dict()})
    if args.json:
        _write(Path(args.json), json.dumps(results, indent=1).encode())
        print(f'results: {args.json}')


def _choose_outs(args: argparse.Namespace) -> list[Path]:
    """Choose the names of the pictures, and refuse those that exist."""
    model = Path(args.model).stem
    outs = [Path(args.out, f'{Path(image).stem}_{model}.png') for image in args.images]
    for i, out in enumerate(outs):
        if out in outs[:i]:
            raise Mistake(f'two images would be drawn as {out}: predict them into two folders')
    for path in [*outs, *([Path(args.json)] if args.json else [])]:
        if path.is_dir():
            raise Mistake(f'{path} is a folder: give the name of a file')
        if path.exists() and not args.force:
            raise Mistake(f'{path} exists: --force replaces it')
        if any(path.resolve() == Path(image).resolve() for image in args.images):
            raise Mistake(f'{path} is an image to predict: give another name')
    return outs


def read_image(path: str) -> 'Image.Image':
    """Read an image file, see :func:`decode_image`.

    Raises:
        Mistake: If it is none.
    """
    if not Path(path).is_file():
        raise Mistake(f'{path} does not exist or is no file: give the path of an image')
    with open(path, 'rb') as file:
        return decode_image(file, path)


def decode_image(file: BinaryIO, name: str, most_pixels: int = 200_000_000) -> 'Image.Image':
    """Decode an image as RGB, turned as its EXIF data say.

    Args:
        file: Its content.
        name: How messages call it.
        most_pixels: How many pixels it may have; a larger one is not decoded.

    Raises:
        Mistake: If it is none, or too large.
    """
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        # The limit is ours.
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        try:
            with Image.open(file) as image:
                if image.width * image.height > most_pixels:
                    raise Mistake(
                        f'{name} has {image.width} x {image.height} pixels: at most '
                        f'{most_pixels:,} in all are read'
                    )
                return ImageOps.exif_transpose(image).convert('RGB')
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            text = ' '.join(str(error).split()) or type(error).__name__
            raise Mistake(f'{name} cannot be read as an image: {text}') from error


@dataclass(frozen=True)
class Found:
    """What a model finds in an image.

    Attributes:
        task: ``'classification'``, ``'segmentation'`` or ``'detection'``.
        rows: The table of what was found, the most important first.
        legend: Colour (r, g, b) and text of each class to show.
        items: What was found: of a classifier ``label, class, score``; of a detector also ``box``
            (x1, y1, x2, y2 in pixels) and ``mask`` (bool array of the image's size) if it has one;
            of a segmentor ``label, class, share, mask``.
        colours: Colour of every class.
    """

    task: str
    rows: list[tuple[str, ...]]
    legend: list[tuple[tuple[int, int, int], str]]
    items: list[dict[str, Any]]
    colours: list[tuple[int, int, int]]

    def as_dict(self) -> dict[str, Any]:
        """Say it for JSON; masks are run lengths, as COCO's without compression."""
        masks = ({'mask': run_lengths(one['mask'])} if 'mask' in one else {} for one in self.items)
        items = [{**one, **mask} for one, mask in zip(self.items, masks, strict=True)]
        return {'task': self.task, 'found': items}


@dataclass(frozen=True)
class Model:
    """An exported model.

    Attributes:
        metadata: What the file says of itself.
        run: From the input array to the output arrays by name.
    """

    metadata: dict[str, Any]
    run: Callable[['np.ndarray'], dict[str, 'np.ndarray']]

    def predict(
        self, image: 'Image.Image', score_thr: float | None = None, top_k: int = 5
    ) -> Found:
        """Predict.

        Args:
            image: The image, RGB, of any size.
            score_thr: The lowest score of a detection; the model's if None.
            top_k: Number of classes to show of a classified image.

        Raises:
            Mistake: If the runtime cannot run the image.
        """
        import numpy as np

        inputs, shown = prepare(image, self.metadata)
        if isinstance(self.metadata['batch'], int):
            inputs = np.repeat(inputs, self.metadata['batch'], 0)
        try:
            outputs = {name: value[0] for name, value in self.run(inputs).items()}
        except Exception as error:  # Each runtime has errors of its own.
            text = ' '.join(str(error).split())[:200]
            raise Mistake(f'the model cannot run an input {inputs.shape}: {text}') from error
        if self.metadata['task'] == 'classification':
            return self._classes(outputs['scores'], top_k)
        if self.metadata['task'] == 'segmentation':
            return self._areas(outputs, shown, image)
        threshold = self.metadata['score_threshold'] if score_thr is None else score_thr
        return self._objects(outputs, shown, image, threshold)

    def _classes(self, scores: 'np.ndarray', top_k: int) -> Found:
        order = scores.argsort(kind='stable')[::-1][:top_k].tolist()
        items = [self._item(label, score=float(scores[label])) for label in order]
        rows = [(one['class'], f'{one["score"]:.3f}') for one in items]
        return self._found(items, rows, [f'{name}  {score}' for name, score in rows])

    def _areas(
        self, outputs: dict[str, 'np.ndarray'], shown: tuple[int, int], image: 'Image.Image'
    ) -> Found:
        import numpy as np

        height, width = shown
        if 'logits' in outputs:
            labels = likeliest(outputs['logits'][:, :height, :width], (image.height, image.width))
        else:
            labels = outputs['labels'][:height, :width]
            rows = (np.arange(image.height) + 0.5) * height // image.height
            columns = (np.arange(image.width) + 0.5) * width // image.width
            labels = labels[np.ix_(rows.astype(int), columns.astype(int))]
        known, counts = np.unique(labels, return_counts=True)
        items = [
            self._item(
                known[i].item(), share=float(counts[i] / labels.size), mask=labels == known[i]
            )
            for i in counts.argsort(kind='stable')[::-1]
        ]
        table = [(one['class'], f'{one["share"]:.1%}') for one in items]
        return self._found(items, table, [f'{name}  {share}' for name, share in table])

    def _objects(
        self,
        outputs: dict[str, 'np.ndarray'],
        shown: tuple[int, int],
        image: 'Image.Image',
        score_thr: float,
    ) -> Found:
        import numpy as np

        scale = np.array((image.width / shown[1], image.height / shown[0]) * 2)
        limits = np.array((image.width, image.height) * 2)
        boxes = np.clip(outputs['boxes'] * scale, 0, limits)
        keep = (outputs['labels'] >= 0) & (outputs['scores'] >= score_thr)
        # What is found in the padding has no width or height left.
        keep &= (boxes[:, 2:] > boxes[:, :2]).all(1)
        boxes, scores = boxes[keep], outputs['scores'][keep].tolist()
        labels = outputs['labels'][keep].tolist()
        items = [
            self._item(label, score=score, box=box.tolist())
            for label, score, box in zip(labels, scores, boxes, strict=True)
        ]
        if 'masks' in outputs:
            size, threshold = (image.height, image.width), self.metadata['mask_threshold']
            for one, mask in zip(items, outputs['masks'][keep], strict=True):
                one['mask'] = paste_mask(mask, one['box'], size) >= threshold
        by_class: dict[int, list[float]] = {}
        for one in items:
            by_class.setdefault(one['label'], []).append(one['score'])
        order = sorted(by_class, key=lambda label: -len(by_class[label]))
        rows = [
            (self._name(label), str(len(by_class[label])), f'{max(by_class[label]):.3f}')
            for label in order
        ]
        lines = [f'{name}  ({count})' for name, count, _ in rows]
        return self._found(items, rows, lines, order)

    def _found(
        self,
        items: list[dict],
        rows: list[tuple[str, ...]],
        lines: Sequence[str],
        order: Sequence[int] | None = None,
    ) -> Found:
        labels = [one['label'] for one in items] if order is None else order
        colours = class_colours(self.metadata, max(labels, default=0) + 1)
        legend = [(colours[label], line) for label, line in zip(labels, lines, strict=True)]
        return Found(self.metadata['task'], rows, legend, items, colours)

    def _item(self, label: int, **values: Any) -> dict[str, Any]:
        return {'label': label, 'class': self._name(label), **values}

    def _name(self, label: int) -> str:
        classes = self.metadata['classes']
        return str(classes[label]) if label < len(classes) else f'class {label}'


def load_model(path: str, device: str = 'cpu') -> Model:
    """Open an exported model.

    Args:
        path: The file.
        device: Where it is to run.

    Raises:
        Mistake: If there is no such file, its runtime is missing, or it is not one of ours.
    """
    kind = Path(path).suffix.lower()
    if kind not in _RUNTIMES:
        raise Mistake(f'{path}: expected a file that ends in {", ".join(_RUNTIMES)}')
    if not Path(path).is_file():
        raise Mistake(f'{path} does not exist or is no file: give a model of tools/export.py')
    open_file = {'.onnx': _open_onnx, '.xml': _open_openvino}.get(kind, _open_torch)
    try:
        text, run = open_file(path, device)
    except Mistake:
        raise
    except ImportError as error:
        name = error.name or _RUNTIMES[kind]
        raise Mistake(f'{path} needs {name}: pip install {_RUNTIMES[kind]}') from error
    except Exception as error:  # It may be broken.
        reason = ' '.join(str(error).split())[:200]
        raise Mistake(f'{path} cannot be opened on {device}: {reason}') from error
    try:
        metadata = json.loads(text)
        task = metadata['task']
    except (ValueError, TypeError, KeyError) as error:
        raise Mistake(
            f'{path} has no metadata of mmvheat: export it with tools/export.py'
        ) from error
    if task not in _COLUMNS:
        raise Mistake(f'{path} gives {task} and no predictions: there is nothing to draw')
    names = metadata['outputs']
    return Model(metadata, lambda inputs: dict(zip(names, run(inputs), strict=True)))


def _open_onnx(path: str, device: str) -> tuple[str | None, Callable]:
    import onnxruntime

    providers = {'cpu': 'CPUExecutionProvider', 'cuda': 'CUDAExecutionProvider'}
    provider = providers.get(device)
    if provider not in onnxruntime.get_available_providers():
        raise Mistake(
            f'--device {device}: this onnxruntime cannot; it has '
            f'{", ".join(onnxruntime.get_available_providers())}'
        )
    session = onnxruntime.InferenceSession(path, providers=[provider])
    (image,) = session.get_inputs()
    text = session.get_modelmeta().custom_metadata_map.get(_KEY)
    return text, lambda inputs: session.run(None, {image.name: inputs})


def _open_openvino(path: str, device: str) -> tuple[str | None, Callable]:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    text = str(model.get_rt_info(_KEY).value) if model.has_rt_info(_KEY) else None
    compiled = core.compile_model(model, device.upper())
    return text, lambda inputs: compiled(inputs).to_tuple()


def _open_torch(path: str, device: str) -> tuple[str | None, Callable]:
    import torch

    files = {f'{_KEY}.json': ''}
    if path.lower().endswith('.pt2'):
        module = torch.export.load(path, extra_files=files).module().to(device)
    else:
        module = torch.jit.load(path, map_location=device, _extra_files=files)

    def run(inputs: 'np.ndarray') -> list['np.ndarray']:
        with torch.inference_mode():
            outputs = module(torch.from_numpy(inputs).to(device))
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        # numpy has no bfloat16.
        return [(one.float() if one.is_floating_point() else one).cpu().numpy() for one in outputs]

    return files[f'{_KEY}.json'], run


def prepare(image: 'Image.Image', metadata: dict[str, Any]) -> tuple['np.ndarray', tuple[int, int]]:
    """Resize, crop, normalise and pad an image as the test of the config does.

    A model for one size gets an image of another one fitted into it: a classifier's is stretched,
    others keep their proportions.

    Args:
        image: The image, RGB.
        metadata: What the file says of itself.

    Returns:
        The input of the model, a batch of one, and the height and width that the image has in it.
    """
    import numpy as np

    rule, size = metadata['resize'], metadata['size']
    if rule['size']:
        image = resample(image, _resized(image.height, image.width, rule), rule)
    if rule['crop']:
        top, left = (
            max(0, round((have - keep) / 2))
            for have, keep in zip((image.height, image.width), rule['crop'], strict=True)
        )
        height, width = rule['crop']
        box = (left, top, min(left + width, image.width), min(top + height, image.height))
        image = image.crop(box)
    if size != 'dynamic' and (image.height, image.width) != tuple(size):
        if metadata['task'] == 'classification':
            image = resample(image, size, rule)
        elif image.height > size[0] or image.width > size[1]:
            factor = min(size[0] / image.height, size[1] / image.width)
            fitted = (max(1, int(side * factor)) for side in (image.height, image.width))
            image = resample(image, tuple(fitted), rule)
    shown = image.height, image.width
    if size == 'dynamic':
        divisor = metadata['divisor']
        size = [-(-side // divisor) * divisor for side in shown]
    mean, std = (np.array(metadata[name], np.float32) for name in ('mean', 'std'))
    array = np.full((*size, 3), rule['pad_value'], np.float32)
    array[: shown[0], : shown[1]] = (np.asarray(image, np.float32) - mean) / std
    if metadata['preprocess']:
        return np.clip(np.rint(array * std + mean), 0, 255).astype(np.uint8)[None], shown
    return np.ascontiguousarray(array.transpose(2, 0, 1)[None]), shown


def _resized(height: int, width: int, rule: dict[str, Any]) -> tuple[int, int]:
    """The height and width that the config's test resizes an image to."""
    size = rule['size']
    if not rule['keep_ratio']:
        return tuple(size)
    sides = sorted((height, width))
    factor = min(most / side for most, side in zip(size, sides, strict=True) if most is not None)
    return int(height * factor + 0.5), int(width * factor + 0.5)


def resample(image: 'Image.Image', size: Sequence[int], rule: dict[str, Any]) -> 'Image.Image':
    """Resize an image to a height and width by the config's interpolation.

    Pillow averages over the pixels that a smaller one covers, and OpenCV does not: its linear
    interpolation is :func:`sample`'s.
    """
    import numpy as np
    from PIL import Image

    if tuple(size) == (image.height, image.width):
        return image
    if rule.get('backend') == 'pillow' or rule['interpolation'] != 'bilinear':
        kind = Image.Resampling[rule['interpolation'].upper()]
        return image.resize((size[1], size[0]), kind)
    return Image.fromarray(np.rint(resize(np.asarray(image), size)).astype(np.uint8))


def resize(array: 'np.ndarray', size: Sequence[int]) -> 'np.ndarray':
    """Resize the first two axes of an array by linear interpolation, in float32."""
    import numpy as np

    for axis, side in enumerate(size):
        places = (np.arange(side) + 0.5) * array.shape[axis] / side
        array = sample(array, places, axis)
    return array


def sample(array: 'np.ndarray', places: 'np.ndarray', axis: int) -> 'np.ndarray':
    """Interpolate linearly along an axis; beyond the outermost pixels their values go on.

    Args:
        array: Any array.
        places: Where to, in pixels; the centre of the first one is 0.5.
        axis: The axis.
    """
    import numpy as np

    last = array.shape[axis] - 1
    places = (places - 0.5).clip(0, last)
    low = places.astype(int)
    shape = [1] * array.ndim
    shape[axis] = len(places)
    share = (places - low).astype(np.float32).reshape(shape)
    first = array.take(low, axis).astype(np.float32)
    return first + share * (array.take((low + 1).clip(max=last), axis) - first)


def likeliest(logits: 'np.ndarray', size: tuple[int, int]) -> 'np.ndarray':
    """Resize logits and give the label of the largest, class by class to save memory.

    Args:
        logits: Shape (classes, h, w).
        size: Height and width to resize to.

    Returns:
        Labels of shape (height, width).
    """
    import numpy as np

    best, labels = np.full(size, -np.inf, np.float32), np.zeros(size, int)
    for label, values in enumerate(logits):
        resized = resize(values, size)
        labels[resized > best] = label
        np.maximum(best, resized, out=best)
    return labels


def paste_mask(mask: 'np.ndarray', box: Sequence[float], size: tuple[int, int]) -> 'np.ndarray':
    """Lay the mask of a box over the image, as mmdet does.

    Args:
        mask: Probabilities inside the box, shape (h, w).
        box: x1, y1, x2, y2 in pixels of the image.
        size: Height and width of the image.

    Returns:
        Probabilities of shape (height, width), 0 far from the box.
    """
    import numpy as np

    mask, lengths = np.pad(mask, 1), mask.shape
    for axis, (start, end) in enumerate(((box[1], box[3]), (box[0], box[2]))):
        places = (np.arange(size[axis]) + 0.5 - start) / (end - start) * lengths[axis]
        mask = sample(mask, places + 1, axis)
    return mask


def run_lengths(mask: 'np.ndarray') -> dict[str, list[int]]:
    """Encode a mask as COCO's run lengths, column by column, beginning with zeros."""
    import numpy as np

    flat = mask.ravel(order='F')
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {'size': list(mask.shape), 'counts': [0, *counts] if flat[0] else counts}


def class_colours(metadata: dict[str, Any], count: int) -> list[tuple[int, int, int]]:
    """Give every class a colour, by the model's palette if it has one."""
    if metadata['palette']:
        return [tuple(colour) for colour in metadata['palette']]
    fixed = [tuple(bytes.fromhex(colour[1:])) for colour in _COLOURS]
    # Steps of the golden ratio: neighbours differ.
    more = (colorsys.hsv_to_rgb(i * 0.618 % 1, 0.65, 0.85) for i in range(count - len(fixed)))
    return fixed + [tuple(round(255 * part) for part in colour) for colour in more]


def draw(image: 'Image.Image', found: Found) -> 'Image.Image':
    """Draw what was found in an image beside a legend, small images enlarged."""
    import numpy as np
    from PIL import Image, ImageDraw

    sides = image.height, image.width
    factor = max(1, min(-(-_SHORTEST_SIDE // min(sides)), _LONGEST_SIDE // max(sides)))
    canvas = np.asarray(image).repeat(factor, 0).repeat(factor, 1).copy()
    for one in found.items:
        if 'mask' in one:
            area = one['mask'].repeat(factor, 0).repeat(factor, 1)
            canvas[area] = (canvas[area] // 2) + np.array(
                found.colours[one['label']], np.uint8
            ) // 2
    picture = Image.fromarray(canvas)
    pen, font = ImageDraw.Draw(picture), _font()
    for one in reversed(found.items):  # The best are drawn last.
        if 'box' in one:
            x1, y1, x2, y2 = (round(side * factor) for side in one['box'])
            colour = found.colours[one['label']]
            pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=2)
            text = f'{one["class"]} {one["score"]:.2f}'
            tag = pen.textbbox((x1 + 3, y1 + 2), text, font)
            pen.rectangle((x1, y1, tag[2] + 3, tag[3] + 3), fill=colour)
            pen.text((x1 + 3, y1 + 2), text, _readable_on(colour), font)
    return _with_legend(picture, found.legend)


def _with_legend(
    picture: 'Image.Image', legend: Sequence[tuple[tuple[int, int, int], str]]
) -> 'Image.Image':
    from PIL import Image, ImageDraw

    font, line, margin = _font(), 22, 10
    most = max(1, (picture.height - 2 * margin) // line)
    lines = list(legend) or [((255, 255, 255), 'nothing found')]
    if len(lines) > most:
        lines = [*lines[: most - 1], ((255, 255, 255), f'and {len(lines) - most + 1} more')]
    width = max(round(font.getlength(text)) for _, text in lines) + line + 2 * margin
    page = Image.new('RGB', (picture.width + width, picture.height), 'white')
    page.paste(picture)
    pen = ImageDraw.Draw(page)
    for i, (colour, text) in enumerate(lines):
        left, top = picture.width + margin, margin + i * line
        pen.rectangle((left, top, left + 14, top + 14), fill=colour)
        pen.text((left + line, top + 7), text, 'black', font, anchor='lm')
    return page


def _font() -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(14)


def _readable_on(colour: tuple[int, int, int]) -> str:
    red, green, blue = colour
    return 'black' if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else 'white'


def _print_table(path: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(path)
    if not rows:
        print('  nothing found: a lower --score-thr shows more')
        return
    lines = [columns, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for one in lines:
        cells = (cell.ljust(width) for cell, width in zip(one, widths, strict=True))
        print('  ' + '  '.join(cells).rstrip())


def _png(picture: 'Image.Image') -> bytes:
    content = io.BytesIO()
    picture.save(content, 'png')
    return content.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    part = path.with_name(f'{path.name}.part')
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise Mistake(f'{path} cannot be written: {error.strerror}') from error


def run() -> int:
    """Run the command line; a mistake becomes one line on stderr and exit status 2."""
    try:
        main()
    except Mistake as error:
        text = f'error: {error}'
    except ImportError as error:  # numpy or pillow
        package = {'PIL': 'pillow'}.get(error.name or '', error.name)
        text = f'error: {error}: pip install {package}'
    except KeyboardInterrupt:
        text = 'error: interrupted'
    else:
        return 0
    sys.stderr.write(text + '\n')
    return _MISTAKE


if __name__ == '__main__':
    sys.exit(run())
