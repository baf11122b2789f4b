"""The functions that mmcv has for GPUs alone, from their definitions: loops and sums in float64.

Signatures are mmcv's, so that a case takes this module as well. Backward passes are autograd's.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().double().requires_grad_()


def write(target: Tensor, value: Tensor) -> None:
    target.copy_(value.detach())


def sigmoid_losses(logits, target, weight, gamma, alpha):
    rows = []
    for row, right in zip(logits, target.tolist(), strict=True):
        factor = weight[right] if weight.numel() and 0 <= right < len(weight) else 1
        for number, logit in enumerate(row):
            if number == right:
                p, share = torch.sigmoid(logit), alpha
            else:
                p, share = torch.sigmoid(-logit), 1 - alpha
            rows.append(-factor * share * (1 - p) ** gamma * torch.log(p))
    return torch.stack(rows).view_as(logits)


def sigmoid_focal_loss_forward(input, target, weight, output, gamma, alpha):
    write(output, sigmoid_losses(input.double(), target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(input, target, weight, grad_input, gamma, alpha):
    logits = leaf(input)
    losses = sigmoid_losses(logits, target, weight, gamma, alpha)
    write(grad_input, torch.autograd.grad(losses.sum(), logits)[0])


def softmax_losses(log_p, target, weight, gamma, alpha):
    losses = []
    for row, right in zip(log_p, target.tolist(), strict=True):
        if right < 0:
            losses.append(0 * row.sum())
            continue
        factor = weight[right] if weight.numel() else 1
        # 1 - p as the sum of the others: it does not vanish for a sure answer.
        wrong = sum(value.exp() for number, value in enumerate(row) if number != right)
        losses.append(-factor * alpha * wrong**gamma * row[right])
    return torch.stack(losses)


def softmax_focal_loss_forward(input, target, weight, output, gamma, alpha):
    write(output, softmax_losses(input.double().log(), target, weight, gamma, alpha))


def softmax_focal_loss_backward(input, target, weight, buff, grad_input, gamma, alpha):
    logits = leaf(input.double().log())
    losses = softmax_losses(logits.log_softmax(dim=1), target, weight, gamma, alpha)
    write(grad_input, torch.autograd.grad(losses.sum(), logits)[0])


def roi_pool_forward(input, rois, output, argmax, pooled_height, pooled_width, spatial_scale):
    height, width = input.shape[2:]
    for n, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        left, top = x1 * spatial_scale, y1 * spatial_scale
        broad, tall = (x2 + 1) * spatial_scale - left, (y2 + 1) * spatial_scale - top
        for i in range(pooled_height):
            for j in range(pooled_width):
                rows = (top + i * tall / pooled_height, top + (i + 1) * tall / pooled_height)
                columns = (left + j * broad / pooled_width, left + (j + 1) * broad / pooled_width)
                first_y, end_y = max(math.floor(rows[0]), 0), min(math.ceil(rows[1]), height)
                first_x, end_x = max(math.floor(columns[0]), 0), min(math.ceil(columns[1]), width)
                output[n, :, i, j], argmax[n, :, i, j] = 0, -1
                if min(broad, tall) <= 0 or first_y >= end_y or first_x >= end_x:
                    continue
                for channel, plane in enumerate(input[int(image)]):
                    values = {
                        (y, x): float(plane[y, x])
                        for y in range(first_y, end_y)
                        for x in range(first_x, end_x)
                    }
                    y, x = max(values, key=values.get)
                    output[n, channel, i, j], argmax[n, channel, i, j] = values[y, x], y * width + x


def roi_pool_backward(
    grad_output, rois, argmax, grad_input, pooled_height, pooled_width, spatial_scale
):
    total = torch.zeros_like(grad_input, dtype=torch.float64).flatten(2)
    for n, channel, i, j in torch.ones_like(argmax).nonzero().tolist():
        place = int(argmax[n, channel, i, j])
        if place >= 0:
            total[int(rois[n, 0]), channel, place] += grad_output[n, channel, i, j]
    write(grad_input, total.view_as(grad_input))


def bilinear(plane: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Value of a map (C, H, W) at a point; up to one pixel outside it is the edge's, then 0."""
    height, width = plane.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return plane[:, 0, 0] * 0
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = plane[:, top, left] * (left + 1 - x) + plane[:, top, right] * (x - left)
    lower = plane[:, bottom, left] * (left + 1 - x) + plane[:, bottom, right] * (x - left)
    return upper * (top + 1 - y) + lower * (y - top)


def deform_roi_means(
    maps, rois, offset, pooled_height, pooled_width, spatial_scale, sampling_ratio, gamma
) -> Iterator[tuple[int, int, int, Tensor]]:
    for n, roi in enumerate(rois):
        left, top, right, low = roi[1:].double() * spatial_scale - 0.5
        tall, broad = (low - top) / pooled_height, (right - left) / pooled_width
        down, across = (
            sampling_ratio if sampling_ratio > 0 else math.ceil(side) for side in (tall, broad)
        )
        for i in range(pooled_height):
            for j in range(pooled_width):
                y, x = top + i * tall, left + j * broad
                if offset.numel():
                    x = x + gamma * (right - left) * offset[n, 0, i, j]
                    y = y + gamma * (low - top) * offset[n, 1, i, j]
                samples = [
                    bilinear(
                        maps[int(roi[0])],
                        y + (p + 0.5) * tall / down,
                        x + (q + 0.5) * broad / across,
                    )
                    for p in range(down)
                    for q in range(across)
                ]
                yield n, i, j, sum(samples) / len(samples) if samples else maps[0, :, 0, 0] * 0


def deform_roi_pool_forward(input, rois, offset, output, **options):
    for n, i, j, mean in deform_roi_means(input.double(), rois, offset.double(), **options):
        output[n, :, i, j] = mean


def deform_roi_pool_backward(grad_output, input, rois, offset, grad_input, grad_offset, **options):
    maps, shifts = leaf(input), leaf(offset)
    means = deform_roi_means(maps, rois, shifts, **options)
    total = sum((mean * grad_output[n, :, i, j]).sum() for n, i, j, mean in means)
    grads = torch.autograd.grad(total, (maps, shifts), allow_unused=True)
    write(grad_input, grads[0])
    if offset.numel():
        write(grad_offset, grads[1])


def attend(value, shapes, starts, points, weights):
    outputs = []
    for b, q, head in torch.ones(points.shape[:3]).nonzero().tolist():
        total = 0
        for level, (height, width) in enumerate(shapes.tolist()):
            rows = value[b, starts[level] : starts[level] + height * width, head]
            # Zeros around the map, since a point half outside counts half.
            plane = F.pad(rows.T.reshape(-1, height, width), (2, 2, 2, 2))
            for point in range(points.size(4)):
                x, y = points[b, q, head, level, point]
                x, y = x * width - 0.5 + 2, y * height - 0.5 + 2
                total = total + weights[b, q, head, level, point] * bilinear(plane, y, x)
        outputs.append(total)
    return torch.stack(outputs).view(*points.shape[:2], -1)


def ms_deform_attn_forward(
    value, spatial_shapes, level_start_index, sampling_loc, attn_weight, im2col_step
):
    given = (value.double(), spatial_shapes, level_start_index)
    return attend(*given, sampling_loc.double(), attn_weight.double()).float()


def ms_deform_attn_backward(
    value, spatial_shapes, level_start_index, sampling_loc, attn_weight, grad_output,
    grad_value, grad_sampling_loc, grad_attn_weight, im2col_step,
):  # fmt: skip
    leaves = [leaf(tensor) for tensor in (value, sampling_loc, attn_weight)]
    output = attend(leaves[0], spatial_shapes, level_start_index, *leaves[1:])
    grads = torch.autograd.grad(output, leaves, grad_output.double())
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        write(target, grad)


def masked_im2col_forward(im, mask_h_idx, mask_w_idx, col, kernel_h, kernel_w, pad_h, pad_w):
    windows = F.unfold(im, (kernel_h, kernel_w), padding=(pad_h, pad_w))[0]
    write(col, windows[:, mask_h_idx * im.size(3) + mask_w_idx])


def masked_col2im_forward(col, mask_h_idx, mask_w_idx, im, height, width, channels):
    for number, (y, x) in enumerate(zip(mask_h_idx, mask_w_idx, strict=True)):
        im[0, :, y, x] = col[:, number]


def mix(maps, masks, kernel, groups, scale):
    height, width = maps.shape[2:]
    edge, each = kernel // 2, maps.size(1) // groups
    padded = F.pad(maps, (edge,) * 4)
    outputs = []
    for n, channel, y, x in (
        torch.ones(*maps.shape[:2], height * scale, width * scale).nonzero().tolist()
    ):
        top, left, group = y // scale, x // scale, channel // each
        window = padded[n, channel, top : top + kernel, left : left + kernel]
        taps = masks[n, group * kernel**2 : (group + 1) * kernel**2, y, x]
        outputs.append((window * taps.view(kernel, kernel)).sum())
    return torch.stack(outputs).view(*maps.shape[:2], height * scale, width * scale)


def carafe_forward(
    features, masks, rfeatures, routput, rmasks, output, kernel_size, group_size, scale_factor
):
    rfeatures.copy_(features)
    write(output, mix(features.double(), masks.double(), kernel_size, group_size, scale_factor))


def carafe_backward(
    top_grad, rfeatures, masks, rtop_grad, rbottom_grad_hs, rbottom_grad, rmask_grad, bottom_grad,
    mask_grad, kernel_size, group_size, scale_factor,
):  # fmt: skip
    leaves = [leaf(rfeatures), leaf(masks)]
    output = mix(*leaves, kernel_size, group_size, scale_factor)
    grads = torch.autograd.grad(output, leaves, top_grad.double())
    write(bottom_grad, grads[0])
    write(mask_grad, grads[1])


def sync_bn_forward_mean(input, mean):
    write(mean, input.double().mean(dim=(0, 2)))


def sync_bn_forward_var(input, mean, var):
    write(var, input.double().var(dim=(0, 2), correction=0))


def sync_bn_forward_output(
    input, mean, var, weight, bias, running_mean, running_var, norm, std, output, eps, momentum,
    group_size,
):  # fmt: skip
    """torch's own; ``norm`` keeps the input and ``std`` the eps for the gradient."""
    running = [running_mean.double(), running_var.double()]
    options = dict(training=True, momentum=momentum, eps=eps)
    write(output, F.batch_norm(input.double(), *running, weight.double(), bias.double(), **options))
    for target, value in zip((running_mean, running_var), running, strict=True):
        write(target, value)
    write(norm, input)
    std.fill_(eps)


def sync_bn_backward_param(grad_output, norm, grad_weight, grad_bias):
    standard = F.batch_norm(norm.double(), None, None, training=True, eps=1e-3)
    write(grad_weight, (grad_output * standard).sum(dim=(0, 2)))
    write(grad_bias, grad_output.sum(dim=(0, 2)))


def sync_bn_backward_data(grad_output, weight, grad_weight, grad_bias, norm, std, grad_input):
    maps = leaf(norm)
    output = F.batch_norm(maps, None, None, weight.double(), None, training=True, eps=float(std[0]))
    write(grad_input, torch.autograd.grad(output, maps, grad_output.double())[0])
