"""Count the parameters and FLOPs of a model without computing anything.

The convention is that of the paper and of fvcore, whose figures others compare with: a
multiply-add is one FLOP; norms, resizing and pooling count a few for each element, activations and
sums none. The cosine transforms count in full: as matrix products, two for each axis and block.
The Fourier transforms of the variant that has them count 2.5 N log2(N) operations for N positions,
half as many multiply-adds.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmvheat.errors import UserError

from .vheat import VHeat

__all__ = ['Count', 'count_model']

_PROPOSALS = 1000
# mmdet's own count runs mask heads on so many of them: as many as are kept of an image.
_MASKS = 100


@dataclass(frozen=True)
class Count:
    """What a model takes.

    Attributes:
        parameters: Number of parameters.
        flops: Multiply-adds for one image.
    """

    parameters: int
    flops: float


def count_model(model: nn.Module, size: tuple[int, int], inference_form: bool = False) -> Count:
    """Count a model of mmpretrain, mmdet or mmseg, or a bare backbone.

    Two-stage detectors get 1000 proposals; their mask heads run on 100. Heads that only training
    uses (``auxiliary_head``) count as parameters alone.

    Args:
        model: The model, on the meta device: build it under ``torch.device('meta')``.
        size: Height and width of the image in pixels.
        inference_form: Count vHeat with its decays precomputed for this size: the
            embeddings and ``to_k`` are gone, and each block has a tensor (H, W, C) in their place.

    Raises:
        ValueError: If the model is not on the meta device.
        UserError: If it is of a kind not known here.
    """
    on = {parameter.device.type for parameter in model.parameters()}
    if on != {'meta'}:
        raise ValueError(
            f'a model is counted on the meta device, got one on {", ".join(sorted(on))}: build it '
            "under torch.device('meta')"
        )
    model = deepcopy(model)  # On the meta device it costs nothing.
    backbones = [module for module in model.modules() if isinstance(module, VHeat)]
    for backbone in backbones:
        if inference_form and backbone.folded_for is None:
            backbone.fold(size)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    first = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
    channels = 3 if first is None else first.in_channels
    model.eval()
    # With gradients: the training form, in which each forward pass predicts k anew.
    with (
        torch.enable_grad(),
        FlopCounterMode(display=False, custom_mapping=_ELEMENTWISE) as counter,
    ):
        _run(model, torch.zeros(1, channels, *size, device='meta'))
    flops = counter.get_total_flops() / 2
    flops += sum(_spectral_products(backbone, size) for backbone in backbones)
    return Count(parameters, flops)


def _spectral_products(backbone: VHeat, size: tuple[int, int]) -> float:
    """Count the multiply-adds in which the blocks multiply frequencies by their factors."""
    arch, flops = backbone.arch, 0.0
    for i, stage in enumerate(backbone.layers[: max(backbone.out_indices) + 1]):
        height, width = backbone.map_size(size, i)
        # A product without a sum is half of one, a complex product is three.
        factors = {'global_filter': 3 * height * (width // 2 + 1), 'identity': 0}
        each = factors.get(arch.operator, height * width / 2)
        flops += each * arch.dims[i] * stage.depth
    return flops


def _run(model: nn.Module, image: Tensor) -> None:
    """Run what testing runs, without its postprocessing."""
    backbone = getattr(model, 'backbone', None)
    if backbone is None:
        model(image)
        return
    maps = backbone(image)
    if isinstance(neck := getattr(model, 'neck', None), nn.Module):
        maps = neck(maps)
    heads = [getattr(model, name, None) for name in ('head', 'decode_head', 'bbox_head')]
    heads = [head for head in heads if isinstance(head, nn.Module)]
    roi_head = getattr(model, 'roi_head', None)
    if isinstance(roi_head, nn.Module):
        heads = [model.rpn_head]
        _run_rois(roi_head, 'bbox', _PROPOSALS)
        _run_rois(roi_head, 'mask', _MASKS)
    if len(heads) != 1 or isinstance(heads[0], nn.ModuleList):
        raise UserError(f'{type(model).__name__} is of a kind whose FLOPs cannot be counted here')
    heads[0](maps)


def _run_rois(roi_head: nn.Module, kind: str, number: int) -> None:
    """Run the box or mask heads of all stages on so many regions; to pool these counts nothing."""
    heads = getattr(roi_head, f'{kind}_head', None)
    extractors = getattr(roi_head, f'{kind}_roi_extractor', None)
    if heads is None:
        return
    if not isinstance(heads, nn.ModuleList):
        heads = [heads]
    if not isinstance(extractors, nn.ModuleList):
        extractors = [extractors] * len(heads)
    for head, extractor in zip(heads, extractors, strict=True):
        size = extractor.roi_layers[0].output_size
        head(torch.zeros(number, extractor.out_channels, *size, device='meta'))


def _per_element(inputs: int = 0, outputs: int = 0) -> Callable[..., int]:
    """Count operations for each element; torch's counter has two FLOPs in a multiply-add."""

    def count(shape: Size, *_: Any, out_shape: Any = None, **__: Any) -> int:
        # Norms return statistics too.
        out = out_shape if isinstance(out_shape, Size) else out_shape[0]
        return 2 * (inputs * shape.numel() + outputs * out.numel())

    return count


def _fourier(shape: Size, dim: list[int], *_: Any, out_shape: Size, **__: Any) -> float:
    """Count a Fourier transform of real maps, or one back to them."""
    # Of the two sides the real one has more elements, and its axes their full lengths.
    real = max(shape, out_shape, key=Size.numel)
    return 2.5 * real.numel() * math.log2(math.prod(real[axis] for axis in dim))


# fvcore's figures, for the operators that testing with fixed statistics meets.
_ELEMENTWISE = {
    torch.ops.aten.native_layer_norm: _per_element(inputs=5),
    torch.ops.aten.native_group_norm: _per_element(inputs=5),
    torch.ops.aten.native_batch_norm: _per_element(inputs=2),
    torch.ops.aten.upsample_nearest2d: _per_element(outputs=1),
    torch.ops.aten.upsample_bilinear2d: _per_element(outputs=4),
    torch.ops.aten._adaptive_avg_pool2d: _per_element(inputs=1),
    torch.ops.aten.mean: _per_element(inputs=1),
    torch.ops.aten._fft_r2c: _fourier,
    torch.ops.aten._fft_c2r: _fourier,
}
# The counter takes apart what it does not know by its overload, and counts by the operator.
_ELEMENTWISE |= {operator.default: count for operator, count in _ELEMENTWISE.items()}
