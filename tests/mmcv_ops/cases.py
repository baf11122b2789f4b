"""Calls of mmcv's compiled functions on odd inputs, the same for our module and the compiled one.

Each case takes the module and a random state, and gives what the module wrote or returned. Inputs
come from NumPy's old generator, which every version of NumPy repeats.
"""

import itertools
from collections.abc import Callable
from functools import partial
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ['CASES', 'ON_GPU_ONLY', 'compiled_module', 'run']

Random = np.random.RandomState
Case = Callable[[ModuleType, Random], list[Any]]
# Maps of RoI functions: two images, three channels.
MAPS = (2, 3, 9, 11)
SCALE = 0.25
# Outside, tiny, huge, flat, empty, equal; the last one is reversed.
ODD = (
    (-90, -80, -60, -50), (200, 200, 220, 230), (-5, -6, 3, 4), (40, 30, 60, 50),
    (10, 10, 10.01, 10.02), (-300, -300, 500, 500), (7, 7, 7, 20), (5, 5, 5, 5), (5, 5, 5, 5),
    (0, 0, 44, 36), (8, 8, 16, 16), (8, 8, 16, 16), (30, 28, 12, 9),
)  # fmt: skip


def compiled_module() -> ModuleType | None:
    """The compiled module of mmcv, if one is installed."""
    mmcv = find_spec('mmcv')
    spec = mmcv and PathFinder.find_spec('mmcv._ext', mmcv.submodule_search_locations)
    if not spec:
        return None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, module: ModuleType, seed: int = 0) -> list[np.ndarray]:
    """The results of a case as arrays."""
    results = (CASES | ON_GPU_ONLY)[name](module, Random(seed))
    return [item.numpy() if isinstance(item, Tensor) else np.asarray(item) for item in results]


def normal(rng: Random, *shape: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))


def uniform(rng: Random, *shape: int) -> Tensor:
    return torch.from_numpy(rng.uniform(size=shape).astype(np.float32))


def odd_boxes(rng: Random, count: int, reversed_too: bool = True) -> Tensor:
    """Boxes in clusters, of which many overlap, and odd ones, on an image of 44 x 36 pixels."""
    centres = 40 * uniform(rng, max(count // 8, 1), 2)
    centres = centres[rng.randint(len(centres), size=count)] + normal(rng, count, 2)
    halves = 2 + 6 * uniform(rng, count, 2)
    odd = torch.tensor(ODD if reversed_too else ODD[:-1])
    return torch.cat((torch.cat((centres - halves, centres + halves), dim=1), odd))


def roi_inputs(rng: Random, reversed_too: bool) -> tuple[Tensor, Tensor]:
    """Maps and RoIs on both images."""
    boxes = odd_boxes(rng, 4, reversed_too)
    images = torch.arange(len(boxes)) % 2
    return normal(rng, *MAPS), torch.cat((images[:, None].float(), boxes), dim=1)


def nms(ext: ModuleType, rng: Random, count: int, threshold: float, offset: int) -> list[Any]:
    boxes = odd_boxes(rng, count) if count else torch.zeros(0, 4)
    if offset:
        boxes = boxes.round()  # so that no rounding of the sides decides
    scores = uniform(rng, len(boxes))
    return [ext.nms(boxes, scores, iou_threshold=threshold, offset=offset)]


def softnms(ext: ModuleType, rng: Random, method: int, offset: int) -> list[Any]:
    boxes = odd_boxes(rng, 40)
    # Equal scores, and some below the limit from the start.
    scores = (uniform(rng, len(boxes)) * 20).round() / 20
    dets = torch.zeros(len(boxes), 5)
    kept = ext.softnms(
        boxes,
        scores,
        dets,
        iou_threshold=0.3,
        sigma=0.5,
        min_score=0.1,
        method=method,
        offset=offset,
    )
    return [kept, dets[: len(kept)]]


def nms_match(ext: ModuleType, rng: Random) -> list[Any]:
    boxes = odd_boxes(rng, 40)
    scores = uniform(rng, len(boxes), 1)
    groups = ext.nms_match(torch.cat((boxes, scores), dim=1), iou_threshold=0.3)
    return [[len(group) for group in groups], sum(groups, [])]


def bbox_overlaps(ext: ModuleType, rng: Random, mode: int, aligned: bool, offset: int) -> list[Any]:
    first, second = odd_boxes(rng, 6), odd_boxes(rng, 6)
    overlaps = torch.zeros(len(first)) if aligned else torch.zeros(len(first), len(second))
    ext.bbox_overlaps(first, second, overlaps, mode=mode, aligned=aligned, offset=offset)
    return [overlaps]


def roi_align(
    ext: ModuleType, rng: Random, mode: int, aligned: bool, ratio: int, empty: bool = False
) -> list[Any]:
    # The compiled function refuses reversed boxes with `aligned`, on a CPU alone.
    maps, rois = roi_inputs(rng, reversed_too=not aligned)
    rois = rois[:0] if empty else rois
    shape = (len(rois), maps.size(1), 2, 3)
    output = torch.zeros(shape)
    argmax = [torch.zeros(shape if mode == 0 else 0) for _ in 'yx']
    options = dict(
        aligned_height=2, aligned_width=3, spatial_scale=SCALE, sampling_ratio=ratio,
        pool_mode=mode, aligned=aligned,
    )  # fmt: skip
    ext.roi_align_forward(maps, rois, output, *argmax, **options)
    grad = torch.zeros_like(maps)
    ext.roi_align_backward(normal(rng, *shape), rois, *argmax, grad, **options)
    return [output, grad]


def deform_conv(
    ext: ModuleType, rng: Random, kernel: int, stride: int, pad: int, dilation: int, group: int,
    deform_group: int,
) -> list[Any]:  # fmt: skip
    maps, weight = normal(rng, 2, 4, 7, 6), normal(rng, 6, 4 // group, kernel, kernel)
    reach = dilation * (kernel - 1) + 1
    tall, broad = ((side + 2 * pad - reach) // stride + 1 for side in maps.shape[2:])
    # Some taps leave the map.
    offset = 3 * normal(rng, 2, 2 * deform_group * kernel**2, tall, broad)
    grad_output = normal(rng, 2, 6, tall, broad)
    output, grads = torch.zeros_like(grad_output), [torch.zeros_like(t) for t in (maps, offset)]
    grad_weight, buffers = torch.zeros_like(weight), [torch.zeros(0), torch.zeros(0)]
    options = dict(
        kW=kernel, kH=kernel, dW=stride, dH=stride, padW=pad, padH=pad, dilationW=dilation,
        dilationH=dilation, group=group, deformable_group=deform_group, im2col_step=2,
    )  # fmt: skip
    ext.deform_conv_forward(maps, weight, offset, output, *buffers, **options)
    ext.deform_conv_backward_input(maps, offset, grad_output, *grads, weight, buffers[0], **options)
    ext.deform_conv_backward_parameters(
        maps, offset, grad_output, grad_weight, *buffers, scale=1, **options
    )
    return [output, *grads, grad_weight]


def modulated_deform_conv(
    ext: ModuleType, rng: Random, group: int, deform_group: int, with_bias: bool
) -> list[Any]:
    maps, weight = normal(rng, 2, 4, 7, 6), normal(rng, 6, 4 // group, 3, 3)
    offset, mask = (
        3 * normal(rng, 2, 18 * deform_group, 4, 3),
        uniform(rng, 2, 9 * deform_group, 4, 3),
    )
    bias, grad_output = normal(rng, 6 if with_bias else 0), normal(rng, 2, 6, 4, 3)
    output = torch.zeros_like(grad_output)
    grads = [torch.zeros_like(t) for t in (maps, weight, bias, offset, mask)]
    buffers = [torch.zeros(0), torch.zeros(0)]
    options = dict(
        kernel_h=3, kernel_w=3, stride_h=2, stride_w=2, pad_h=1, pad_w=1, dilation_h=1,
        dilation_w=1, group=group, deformable_group=deform_group, with_bias=with_bias,
    )  # fmt: skip
    ext.modulated_deform_conv_forward(
        maps, weight, bias, buffers[0], offset, mask, output, buffers[1], **options
    )
    ext.modulated_deform_conv_backward(
        maps, weight, bias, buffers[0], offset, mask, buffers[1], *grads, grad_output, **options
    )
    return [output, *grads]


def psamask(ext: ModuleType, rng: Random, kind: int, window: tuple[int, int]) -> list[Any]:
    tall, broad = 4, 5
    maps = normal(rng, 2, window[0] * window[1], tall, broad)
    output, grad = torch.zeros(2, tall * broad, tall, broad), torch.zeros_like(maps)
    options = dict(
        psa_type=kind, num_=2, h_feature=tall, w_feature=broad, h_mask=window[0],
        w_mask=window[1], half_h_mask=(window[0] - 1) // 2, half_w_mask=(window[1] - 1) // 2,
    )  # fmt: skip
    ext.psamask_forward(maps, output, **options)
    ext.psamask_backward(normal(rng, *output.shape), grad, **options)
    return [output, grad]


def sigmoid_focal_loss(ext: ModuleType, rng: Random, gamma: float, weighted: bool) -> list[Any]:
    logits = 4 * normal(rng, 12, 5)
    logits[0] = torch.tensor([-30, 30, 0, 17, -17])
    target = torch.from_numpy(rng.randint(-1, 6, size=12))
    weight = uniform(rng, 5) if weighted else torch.zeros(0)
    output, grad = torch.zeros_like(logits), torch.zeros_like(logits)
    ext.sigmoid_focal_loss_forward(logits, target, weight, output, gamma=gamma, alpha=0.25)
    ext.sigmoid_focal_loss_backward(logits, target, weight, grad, gamma=gamma, alpha=0.25)
    return [output, grad]


def softmax_focal_loss(ext: ModuleType, rng: Random, gamma: float, weighted: bool) -> list[Any]:
    logits = 4 * normal(rng, 12, 5)
    logits[0] = torch.tensor([-30, 30, 0, 17, -17])
    target = torch.from_numpy(rng.randint(-1, 5, size=12))
    target[0] = 1
    weight = uniform(rng, 5) if weighted else torch.zeros(0)
    output, buffer, grad = torch.zeros(12), torch.zeros(12), torch.zeros_like(logits)
    given = (logits.softmax(dim=1), target, weight)
    ext.softmax_focal_loss_forward(*given, output, gamma=gamma, alpha=0.25)
    ext.softmax_focal_loss_backward(*given, buffer, grad, gamma=gamma, alpha=0.25)
    return [output, grad]


def roi_pool(ext: ModuleType, rng: Random, size: tuple[int, int], empty: bool = False) -> list[Any]:
    maps, rois = roi_inputs(rng, reversed_too=True)
    rois = rois[:0] if empty else rois
    shape = (len(rois), maps.size(1), *size)
    output, argmax, grad = torch.zeros(shape), torch.zeros(shape).int(), torch.zeros_like(maps)
    options = dict(pooled_height=size[0], pooled_width=size[1], spatial_scale=SCALE)
    ext.roi_pool_forward(maps, rois, output, argmax, **options)
    ext.roi_pool_backward(normal(rng, *shape), rois, argmax, grad, **options)
    return [output, argmax, grad]


def deform_roi_pool(ext: ModuleType, rng: Random, ratio: int, shifted: bool) -> list[Any]:
    maps, rois = roi_inputs(rng, reversed_too=True)
    rois = rois[(rois[:, 3] - rois[:, 1]).abs() < 100]  # the reference takes point by point
    shape = (len(rois), maps.size(1), 2, 3)
    offset = normal(rng, len(rois), 2, 2, 3) if shifted else torch.zeros(0)
    output, grad = torch.zeros(shape), torch.zeros_like(maps)
    grad_offset = torch.zeros_like(offset)
    options = dict(
        pooled_height=2, pooled_width=3, spatial_scale=SCALE, sampling_ratio=ratio, gamma=0.1
    )
    ext.deform_roi_pool_forward(maps, rois, offset, output, **options)
    ext.deform_roi_pool_backward(
        normal(rng, *shape), maps, rois, offset, grad, grad_offset, **options
    )
    return [output, grad, grad_offset]


def ms_deform_attn(ext: ModuleType, rng: Random) -> list[Any]:
    shapes = torch.tensor([[4, 5], [2, 3], [1, 1]])
    rows = shapes.prod(dim=1)
    starts = rows.cumsum(0) - rows
    # (batch, rows, heads, width), and points of which some leave the maps.
    value, points = (
        normal(rng, 2, int(rows.sum()), 2, 3),
        1.4 * uniform(rng, 2, 6, 2, 3, 2, 2) - 0.2,
    )
    weights, grad_output = uniform(rng, 2, 6, 2, 3, 2), normal(rng, 2, 6, 6)
    grads = [torch.zeros_like(t) for t in (value, points, weights)]
    output = ext.ms_deform_attn_forward(value, shapes, starts, points, weights, im2col_step=2)
    ext.ms_deform_attn_backward(
        value, shapes, starts, points, weights, grad_output, *grads, im2col_step=2
    )
    return [output, *grads]


def masked_conv(ext: ModuleType, rng: Random, kernel: tuple[int, int]) -> list[Any]:
    pad = (kernel[0] // 2, kernel[1] // 2)
    maps, weight = normal(rng, 1, 3, 6, 7), normal(rng, 4, 3 * kernel[0] * kernel[1])
    rows, columns = (uniform(rng, 6, 7) > 0.6).nonzero(as_tuple=True)
    windows, output = torch.zeros(weight.size(1), len(rows)), torch.zeros(1, 4, 6, 7)
    ext.masked_im2col_forward(
        maps,
        rows,
        columns,
        windows,
        kernel_h=kernel[0],
        kernel_w=kernel[1],
        pad_h=pad[0],
        pad_w=pad[1],
    )
    mixed = (weight[..., None] * windows).sum(dim=1)
    ext.masked_col2im_forward(mixed, rows, columns, output, height=6, width=7, channels=4)
    return [windows, output]


def carafe(ext: ModuleType, rng: Random, kernel: int, groups: int, scale: int) -> list[Any]:
    maps = normal(rng, 2, 4, 3, 5)
    masks = normal(rng, 2, groups * kernel**2, 3 * scale, 5 * scale)
    output = torch.zeros(2, 4, 3 * scale, 5 * scale)
    grad_output, grads = normal(rng, *output.shape), [torch.zeros_like(t) for t in (maps, masks)]
    options = dict(kernel_size=kernel, group_size=groups, scale_factor=scale)
    kept = torch.zeros_like(maps)
    unused = [torch.zeros(0) for _ in range(4)]
    ext.carafe_forward(maps, masks, kept, *unused[:2], output, **options)
    ext.carafe_backward(grad_output, kept, masks, *unused, *grads, **options)
    return [output, *grads]


def sync_bn(ext: ModuleType, rng: Random) -> list[Any]:
    maps, weight, bias = 2 + normal(rng, 3, 4, 6), normal(rng, 4), normal(rng, 4)
    mean, var, std, norm = torch.zeros(4), torch.zeros(4), torch.zeros(4), torch.zeros_like(maps)
    running, output = [normal(rng, 4), uniform(rng, 4)], torch.zeros_like(maps)
    ext.sync_bn_forward_mean(maps, mean)
    ext.sync_bn_forward_var(maps, mean, var)
    ext.sync_bn_forward_output(
        maps,
        mean,
        var,
        weight,
        bias,
        *running,
        norm,
        std,
        output,
        eps=1e-3,
        momentum=0.1,
        group_size=1,
    )
    grad_output, grads = (
        normal(rng, *maps.shape),
        [torch.zeros_like(t) for t in (weight, bias, maps)],
    )
    ext.sync_bn_backward_param(grad_output, norm, *grads[:2])
    ext.sync_bn_backward_data(grad_output, weight, *grads[:2], norm, std, grads[2])
    return [output, *running, *grads]


def _cases() -> dict[str, Case]:
    cases: dict[str, Case] = {'nms_match': nms_match}
    for count, threshold, offset in itertools.product((0, 60), (0.3, 0.6), (0, 1)):
        cases[f'nms-{count}-{threshold}-{offset}'] = partial(
            nms, count=count, threshold=threshold, offset=offset
        )
    for method, offset in itertools.product((0, 1, 2), (0, 1)):
        cases[f'softnms-{method}-{offset}'] = partial(softnms, method=method, offset=offset)
    for mode, aligned, offset in itertools.product((0, 1), (False, True), (0, 1)):
        cases[f'bbox_overlaps-{mode}-{aligned}-{offset}'] = partial(
            bbox_overlaps, mode=mode, aligned=aligned, offset=offset
        )
    for mode, aligned, ratio in itertools.product((0, 1), (False, True), (0, 2)):
        cases[f'roi_align-{mode}-{aligned}-{ratio}'] = partial(
            roi_align, mode=mode, aligned=aligned, ratio=ratio
        )
    for mode in (0, 1):
        cases[f'roi_align-{mode}-empty'] = partial(
            roi_align, mode=mode, aligned=True, ratio=0, empty=True
        )
    for shape in ((3, 1, 1, 1, 1, 1), (3, 2, 1, 1, 2, 4), (3, 1, 2, 2, 1, 2), (1, 1, 0, 1, 2, 1)):
        cases[f'deform_conv-{shape}'] = partial(
            deform_conv,
            **dict(
                zip(
                    ('kernel', 'stride', 'pad', 'dilation', 'group', 'deform_group'),
                    shape,
                    strict=True,
                )
            ),
        )
    for group, deform_group, with_bias in ((1, 1, True), (2, 2, False)):
        cases[f'modulated_deform_conv-{group}-{deform_group}-{with_bias}'] = partial(
            modulated_deform_conv, group=group, deform_group=deform_group, with_bias=with_bias
        )
    for kind, window in itertools.product((0, 1), ((7, 9), (3, 4))):
        cases[f'psamask-{kind}-{window}'] = partial(psamask, kind=kind, window=window)
    return cases


def _on_gpu_only() -> dict[str, Case]:
    cases: dict[str, Case] = {'ms_deform_attn': ms_deform_attn, 'sync_bn': sync_bn}
    for gamma, weighted in itertools.product((0.5, 2.0), (False, True)):
        for loss in (sigmoid_focal_loss, softmax_focal_loss):
            cases[f'{loss.__name__}-{gamma}-{weighted}'] = partial(
                loss, gamma=gamma, weighted=weighted
            )
    for size, empty in (((2, 3), False), ((5, 1), False), ((2, 3), True)):
        cases[f'roi_pool-{size}-{empty}'] = partial(roi_pool, size=size, empty=empty)
    for ratio, shifted in itertools.product((0, 2), (False, True)):
        cases[f'deform_roi_pool-{ratio}-{shifted}'] = partial(
            deform_roi_pool, ratio=ratio, shifted=shifted
        )
    for kernel in ((3, 3), (1, 5)):
        cases[f'masked_conv-{kernel}'] = partial(masked_conv, kernel=kernel)
    for kernel, groups, scale in ((5, 1, 2), (3, 2, 3), (1, 4, 1)):
        cases[f'carafe-{kernel}-{groups}-{scale}'] = partial(
            carafe, kernel=kernel, groups=groups, scale=scale
        )
    return cases


# mmcv's CPU build has these functions.
CASES = _cases()
# It lacks these; their truth is `reference.py`.
ON_GPU_ONLY = _on_gpu_only()
