"""Pooling of regions of interest (RoI) to a fixed size: RoIAlign, RoIPool, deformable RoI pooling.

A RoI is (image index, x1, y1, x2, y2), the box in pixels of the image; ``spatial_scale`` brings it
to the feature map. The average of RoIAlign is torchvision's; the rest, which it lacks or rounds in
another way, is gathered with plain torch, in chunks of bounded memory. Where mmcv's CPU code
refuses boxes of negative size with ``aligned``, its rule for GPUs holds on every device.
"""

from collections.abc import Iterator

import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

from .precision import wide
from .sampling import corners, sample

__all__ = [
    'deform_roi_pool_backward',
    'deform_roi_pool_forward',
    'roi_align_backward',
    'roi_align_forward',
    'roi_pool_backward',
    'roi_pool_forward',
]

# Gathered numbers in one chunk.
CHUNK = 2**24
# What mmcv's CPU code gives as the maximum of no samples.
NO_MAXIMUM = -10000.0


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign (He et al., "Mask R-CNN", ICCV 2017).

    Args:
        input: Feature maps (N, C, H, W).
        rois: (K, 5).
        output: Written (K, C, aligned_height, aligned_width).
        argmax_y: Written where ``pool_mode`` is 0, shaped as ``output``: row of the largest sample.
        argmax_x: Likewise its column.
        aligned_height: Rows of the output.
        aligned_width: Columns of the output.
        spatial_scale: Pixels of the map for one pixel of the image.
        sampling_ratio: Samples of a bin along each axis; 0 takes about one a pixel.
        pool_mode: 0 takes the largest sample of a bin, 1 the mean.
        aligned: Whether pixels are centred at half coordinates.
    """
    size = (aligned_height, aligned_width)
    if pool_mode == 1:
        pooled = torch.ops.torchvision.roi_align(
            wide(input), wide(rois), spatial_scale, *size, sampling_ratio, aligned
        )
        output.copy_(pooled)
        return
    features, regions = wide(input), _Regions(rois, spatial_scale, 0.5 if aligned else 0.0)
    if not aligned:
        regions.sides = regions.sides.clamp(min=1)
    argmax_y.fill_(-1)
    argmax_x.fill_(-1)
    output.fill_(NO_MAXIMUM)
    for chosen, y, x in regions.points(size, sampling_ratio, input.size(1)):
        values = sample(features, regions.images[chosen], y, x).flatten(3, 4)
        best, index = values.max(dim=3)
        for kept, points in ((argmax_y, y), (argmax_x, x)):
            points = points.flatten(3, 4)
            kept[chosen] = points.gather(3, index).permute(0, 3, 1, 2).to(kept.dtype)
        output[chosen] = best.permute(0, 3, 1, 2).to(output.dtype)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of the feature maps, written to ``grad_input``; see the forward pass."""
    count, channels, height, width = grad_input.shape
    if pool_mode == 1:
        gradient = torch.ops.torchvision._roi_align_backward(
            wide(grad_output),
            wide(rois),
            spatial_scale,
            aligned_height,
            aligned_width,
            count,
            channels,
            height,
            width,
            sampling_ratio,
            aligned,
        )
        grad_input.copy_(gradient)
        return
    pixels, weights = corners(wide(argmax_y), wide(argmax_x), height, width)
    shares = weights * wide(grad_output) * (argmax_y != -1)
    maps = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    flat = torch.zeros(grad_input.numel(), dtype=shares.dtype, device=rois.device)
    flat.index_add_(
        0, (pixels + maps[:, :, None, None] * (height * width)).flatten(), shares.flatten()
    )
    grad_input.copy_(flat.view_as(grad_input))


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """RoIPool (Girshick, "Fast R-CNN", ICCV 2015) with mmcv's rounding: a RoI ends after its pixel.

    Args:
        input: Feature maps (N, C, H, W).
        rois: (K, 5).
        output: Written (K, C, pooled_height, pooled_width), 0 where a bin is empty.
        argmax: Written (int32): flat index in the map of each maximum, -1 where a bin is empty.
        pooled_height: Rows of the output.
        pooled_width: Columns of the output.
        spatial_scale: Pixels of the map for one pixel of the image.
    """
    height, width = input.shape[2:]
    pixels = wide(rois)
    starts = pixels[:, [2, 1]] * spatial_scale
    sides = (pixels[:, [4, 3]] + 1) * spatial_scale - starts
    first, ends = [], []
    for axis, (bins, limit) in enumerate(((pooled_height, height), (pooled_width, width))):
        step = (sides[:, axis] / bins)[:, None]
        edges = torch.arange(bins + 1, device=rois.device) * step + starts[:, axis, None]
        first.append(edges[:, :-1].floor().clamp(0, limit).long())
        ends.append(edges[:, 1:].ceil().clamp(0, limit).long())
    # The largest bin of each RoI; the smaller ones are masked.
    largest = torch.stack([(b - a).amax(dim=1) for a, b in zip(first, ends, strict=True)], dim=1)
    largest[(sides <= 0).any(dim=1)] = 0
    output.zero_()
    argmax.fill_(-1)
    rows = input.permute(0, 2, 3, 1).reshape(-1, input.size(1))
    for chosen, (tall, broad) in _chunks(largest, pooled_height * pooled_width * input.size(1)):
        y = first[0][chosen][:, :, None] + torch.arange(tall, device=rois.device)
        x = first[1][chosen][:, :, None] + torch.arange(broad, device=rois.device)
        inside_y, inside_x = y < ends[0][chosen][:, :, None], x < ends[1][chosen][:, :, None]
        pixel = (y * width)[:, :, None, :, None] + x[:, None, :, None, :]
        inside = (inside_y[:, :, None, :, None] & inside_x[:, None, :, None, :]).flatten(3)
        pixel = pixel.flatten(3).where(inside, 0)
        image = rois[chosen, 0].long().view(-1, 1, 1, 1) * (height * width)
        values = rows[image + pixel].masked_fill(~inside[..., None], -torch.inf)
        best, index = values.max(dim=3)
        found = inside.any(dim=3)[..., None]
        output[chosen] = best.where(found, 0).permute(0, 3, 1, 2)
        index = pixel.gather(3, index).where(found, -1)
        argmax[chosen] = index.permute(0, 3, 1, 2).to(argmax.dtype)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Gradient of the feature maps, written to ``grad_input``; see the forward pass."""
    _, channels, height, width = grad_input.shape
    maps = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    index = maps[:, :, None, None] * (height * width) + argmax.clamp(min=0)
    flat = torch.zeros(grad_input.numel(), dtype=grad_output.dtype, device=rois.device)
    flat.index_add_(0, index.flatten(), (grad_output * (argmax >= 0)).flatten())
    grad_input.copy_(flat.view_as(grad_input))


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Deformable RoI pooling (Dai et al., "Deformable Convolutional Networks", ICCV 2017).

    Args:
        input: Feature maps (N, C, H, W).
        rois: (K, 5).
        offset: Shift of each bin (K, 2, pooled_height, pooled_width), x before y, or empty.
        output: Written (K, C, pooled_height, pooled_width).
        pooled_height: Rows of the output.
        pooled_width: Columns of the output.
        spatial_scale: Pixels of the map for one pixel of the image.
        sampling_ratio: Samples of a bin along each axis; 0 takes about one a pixel.
        gamma: Shift of an offset of 1, in sides of the RoI.
    """
    regions = _Regions(rois, spatial_scale, 0.5)
    features, size = wide(input), (pooled_height, pooled_width)
    output.zero_()
    for chosen, y, x in regions.points(size, sampling_ratio, input.size(1)):
        shift = wide(offset)[chosen] if offset.numel() else None
        pooled = regions.deformed_mean(features, chosen, y, x, shift, gamma)
        output[chosen] = pooled.to(output.dtype)


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Gradients of the maps and the offsets, written to ``grad_input`` and ``grad_offset``.

    That of the offsets is the derivative of the forward pass also at the edge of the map, where
    mmcv extrapolates. See the forward pass for the rest.
    """
    regions = _Regions(rois, spatial_scale, 0.5)
    size = (pooled_height, pooled_width)
    features = wide(input).detach().requires_grad_()
    total = torch.zeros_like(features)
    for chosen, y, x in regions.points(size, sampling_ratio, input.size(1)):
        with torch.enable_grad():
            leaves = [features]
            if offset.numel():
                leaves.append(wide(offset)[chosen].detach().requires_grad_())
            shift = leaves[1] if offset.numel() else None
            pooled = regions.deformed_mean(features, chosen, y, x, shift, gamma)
        grads = torch.autograd.grad(pooled, leaves, wide(grad_output)[chosen])
        total += grads[0]
        if offset.numel():
            grad_offset[chosen] = grads[1].to(grad_offset.dtype)
    grad_input.copy_(total)


class _Regions:
    """RoIs on the feature map.

    Attributes:
        images: Index of the map of each RoI (K,).
        starts: Top and left edges (K, 2) in pixels of the map.
        sides: Heights and widths (K, 2).
    """

    def __init__(self, rois: Tensor, spatial_scale: float, centre: float):
        boxes = wide(rois)
        self.images = rois[:, 0].long()
        self.starts = boxes[:, [2, 1]] * spatial_scale - centre
        self.sides = boxes[:, [4, 3]] * spatial_scale - centre - self.starts

    def points(
        self, size: tuple[int, int], sampling_ratio: int, channels: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Sampled points, some RoIs at a time.

        Yields:
            Indices of the RoIs (k,), and the coordinates y and x of their points, each
            (k, rows, columns, points down a bin, points across).
        """
        bins = torch.tensor(size, device=self.sides.device)
        steps = self.sides / bins
        counts = steps.ceil().long() if sampling_ratio <= 0 else sampling_ratio
        counts = torch.zeros_like(self.sides, dtype=torch.long) + counts
        for chosen, count in _chunks(counts, size[0] * size[1] * channels):
            axes = []
            for axis in (0, 1):
                start, step = self.starts[chosen, axis], steps[chosen, axis]
                bin_index = torch.arange(size[axis], device=step.device)
                point = torch.arange(count[axis], device=step.device) + 0.5
                first = start[:, None] + bin_index * step[:, None]
                axes.append(first[:, :, None] + (point * step[:, None] / count[axis])[:, None])
            shape = (len(chosen), *size, *count)
            y = axes[0][:, :, None, :, None].expand(shape)
            x = axes[1][:, None, :, None, :].expand(shape)
            yield chosen, y, x

    def deformed_mean(
        self,
        features: Tensor,
        chosen: Tensor,
        y: Tensor,
        x: Tensor,
        shift: Tensor | None,
        gamma: float,
    ) -> Tensor:
        """Mean of each bin (k, C, rows, columns) after the bins were shifted by (k, 2, ...)."""
        if shift is not None:
            sides = (gamma * self.sides[chosen])[:, :, None, None]
            x = x + (sides[:, 1] * shift[:, 0])[..., None, None]
            y = y + (sides[:, 0] * shift[:, 1])[..., None, None]
        samples = sample(features, self.images[chosen], y, x)
        return samples.mean(dim=(3, 4)).permute(0, 3, 1, 2)


def _chunks(counts: Tensor, each: int) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Groups of RoIs with equal counts of points (K, 2), each small enough to gather at once.

    Args:
        counts: Points down and across; a RoI with none of either is left out.
        each: Numbers that one point of every bin takes.
    """
    groups, group = counts.unique(dim=0, return_inverse=True)
    for index, (down, across) in enumerate(groups.tolist()):
        if down > 0 and across > 0:
            members = (group == index).nonzero()[:, 0]
            for chosen in members.split(max(1, CHUNK // (each * down * across))):
                yield chosen, (down, across)
