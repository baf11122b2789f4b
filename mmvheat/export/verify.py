"""Hold an exported file to the model it was made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from mmvheat.errors import UserError

from .detection_difference import detection_difference
from .graph import SIZES, Shape
from .metadata import Metadata
from .runtimes import open_exported
from .wrappers import ExportedDetector, ExportedModule, ExportedSegmentor

__all__ = ['TOLERANCES', 'Check', 'check_sizes', 'images', 'verify']

# Largest difference over the largest value. What int8 loses is measured on data, not here.
TOLERANCES = {'float32': 1e-4, 'float16': 2e-2, 'bfloat16': 1e-1}
# Rounding to half precision swaps proposals of nearly one score, which no output tells: the share
# of the scores that detections without a partner may then have. By measurement, see docs/export.md.
_LOST = {'float16': 0.2, 'bfloat16': 0.3}
# Of a dynamic batch.
_BATCHES = 1, 3
_SEEDS = 0, 1


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        size: Height and width of the images.
        batch: Their number.
        images: What they show.
        output: Name of the output.
        difference: The largest difference over torch's largest value. Of a label map, the share
            of pixels that differ where torch itself is not undecided. Of detections, matched by
            class and overlap, the largest difference of boxes over the image's longer side, of
            scores, and of probabilities in masks; of their labels, the number without a partner.
            Where the file does not compute in float32, masks are compared by what is inside them,
            and detections without a partner by their share of the scores.
        allowed: How large it may be; None for any.
    """

    size: tuple[int, int]
    batch: int
    images: str
    output: str
    difference: float
    allowed: float | None

    @property
    def passed(self) -> bool:
        """Whether it is small enough; what is not a number is not."""
        return self.allowed is None or self.difference <= self.allowed


def check_sizes(shape: Shape, own: tuple[int, int], divisor: int) -> list[tuple[int, int]]:
    """Choose sizes to compare at: the one of a fixed file, three others for any.

    Args:
        shape: Which images the file takes.
        own: The size that the model is made for.
        divisor: What sizes must be multiples of.
    """
    if shape.size is not None:
        return [shape.size]
    height, width = own
    wanted = [own, (height * 3 // 4 + 1, width * 5 // 4 + 3), (height * 3 // 2, width * 3 // 2)]
    return [tuple(_fit(side, divisor) for side in size) for size in wanted]


def _fit(side: int, divisor: int) -> int:
    low, high = SIZES
    return -(-min(max(side, low), high) // divisor) * divisor


def images(kind: str, size: tuple[int, int], batch: int, seed: int, preprocess: bool) -> np.ndarray:
    """Make images as a file takes them.

    Args:
        kind: ``'noise'``, or ``'blots'``, which are smooth as photographs are.
        size: Height and width.
        batch: Number of images.
        seed: Seed of the random numbers.
        preprocess: Whether the file takes uint8 (N, H, W, 3), else float32 (N, 3, H, W).
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    if kind == 'blots':
        coarse = torch.randn(batch, 3, 1 + height // 16, 1 + width // 16, generator=generator)
        made = F.interpolate(coarse, size, mode='bilinear', align_corners=False) * 1.5
    else:
        made = torch.randn(batch, 3, height, width, generator=generator)
    if preprocess:
        made = (made * 60 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return made.numpy()


def verify(
    path: Path,
    module: ExportedModule,
    shape: Shape,
    sizes: Sequence[tuple[int, int]],
) -> list[Check]:
    """Run a file and the model it was made from on the same images.

    Args:
        path: The file.
        module: The model, neither folded nor traced.
        shape: Which images the file takes.
        sizes: Sizes of the images.

    Returns:
        All comparisons.

    Raises:
        UserError: If the file cannot be read.
    """
    exported = open_exported(path)
    metadata = exported.metadata
    allowed = dict.fromkeys(module.output_names, TOLERANCES.get(metadata.precision))
    if isinstance(module, ExportedDetector) and metadata.precision in _LOST:
        allowed['labels'] = _LOST[metadata.precision]
    checks = []
    for size in sizes:
        for batch in _BATCHES if shape.batch is None else [shape.batch]:
            for kind, seed in zip(('noise', 'blots'), _SEEDS, strict=True):
                image = images(kind, size, batch, seed, shape.preprocess)
                differences = _differences(module, image, exported(image), metadata)
                for name, difference in differences.items():
                    checks.append(Check(size, batch, kind, name, difference, allowed[name]))
    return checks


def _differences(
    module: ExportedModule, image: np.ndarray, found: dict[str, np.ndarray], metadata: Metadata
) -> dict[str, float]:
    """Largest difference of each output."""
    with torch.inference_mode():
        if isinstance(module, ExportedSegmentor) and module.label_map:
            return {'labels': _label_difference(module, torch.from_numpy(image), found['labels'])}
        outputs = module(torch.from_numpy(image))
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    expected = dict(zip(module.output_names, (one.numpy() for one in outputs), strict=True))
    if isinstance(module, ExportedDetector):
        height, width = image.shape[1:3] if module.input.preprocess else image.shape[2:]
        return _detection_differences(found, expected, max(height, width), metadata)
    return {name: relative_difference(found[name], expected[name]) for name in expected}


def _detection_differences(
    found: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    longest: int,
    metadata: Metadata,
) -> dict[str, float]:
    """Differences of detections that are the same object, and how much all others are."""
    try:
        difference = detection_difference(expected, found, mask_threshold=metadata.mask_threshold)
    except ValueError:
        return dict.fromkeys(expected, float('inf'))
    exact = metadata.precision == 'float32'
    values = {
        'boxes': difference.box / longest,
        'scores': difference.score,
        'labels': float(len(difference.unmatched)) if exact else difference.lost,
        'masks': difference.mask if exact else difference.outline,
    }
    return {name: values[name] for name in expected}


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest expected value; infinite where shapes differ."""
    if found.shape != expected.shape:
        return float('inf')
    if not expected.size:
        return 0.0
    largest = float(np.abs(expected).max())
    return float(np.abs(found.astype(np.float64) - expected).max()) / max(largest, 1e-12)


def _label_difference(module: ExportedSegmentor, image: torch.Tensor, found: np.ndarray) -> float:
    """Share of pixels with another label, but for those where rounding decides."""
    module.label_map = False
    try:
        logits = module(image)
    finally:
        module.label_map = True
    labels = torch.from_numpy(found)
    if labels.shape != logits[:, 0].shape:
        return float('inf')
    if logits.size(1) == 1:
        threshold = torch.tensor(float(module.model.decode_head.threshold)).logit()
        margin = (logits[:, 0] - threshold).abs()
    else:
        margin = logits.amax(1) - logits.gather(1, labels[:, None])[:, 0]
        return float((margin > 1e-4 * logits.abs().max()).float().mean())
    wrong = (labels != module.labels(logits)) & (margin > 1e-4 * logits.abs().max())
    return float(wrong.float().mean())


def report_failure(checks: Sequence[Check], target: str) -> None:
    """Raise the worst comparison that failed, if one did.

    Raises:
        UserError: What differs, where and by how much.
    """
    failed = [check for check in checks if not check.passed]
    if not failed:
        return
    worst = max(failed, key=lambda check: check.difference / check.allowed)
    height, width = worst.size
    raise UserError(
        f'{target} is not written: for {worst.batch} images of {height} x {width} its '
        f"{worst.output} differ from torch's by {worst.difference:.1e}, more than "
        f'{worst.allowed:.0e}: try another --opset or --format'
    )
