"""Functions that read a window around each pixel: masked convolution, CARAFE, PSANet's masks."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import wide

__all__ = [
    'carafe_backward',
    'carafe_forward',
    'carafe_naive_backward',
    'carafe_naive_forward',
    'masked_col2im_forward',
    'masked_im2col_forward',
    'psamask_backward',
    'psamask_forward',
]


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Windows of the first map at chosen pixels.

    Args:
        im: (1, C, H, W).
        mask_h_idx: Rows of the M chosen outputs, int64.
        mask_w_idx: Their columns.
        col: Written (C * kernel_h * kernel_w, M).
        kernel_h: Height of the window.
        kernel_w: Width of the window.
        pad_h: Rows of zeros around the map.
        pad_w: Columns of zeros around the map.
    """
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    down = torch.arange(kernel_h, device=im.device)[:, None, None] + mask_h_idx
    across = torch.arange(kernel_w, device=im.device)[:, None] + mask_w_idx
    col.copy_(padded[:, down, across].flatten(0, 2))


def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Write columns (C, M) to the chosen pixels of the first map of ``im`` (1, C, H, W)."""
    im[0, :, mask_h_idx, mask_w_idx] = col.to(im.dtype)


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """CARAFE upsampling (Wang et al., ICCV 2019): each output pixel mixes a window of the input.

    Args:
        features: (N, C, H, W).
        masks: Weights of the windows (N, group_size * kernel_size ** 2, sH, sW).
        rfeatures: Ignored, as ``routput`` and ``rmasks``, which hold other layouts in mmcv; but the
            backward pass receives it in place of the features, so these are kept in it.
        routput: Ignored.
        rmasks: Ignored.
        output: Written (N, C, sH, sW).
        kernel_size: Side of a window, odd.
        group_size: Groups of channels with their own weights.
        scale_factor: The factor s of the upsampling.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Gradients of features and masks, written to ``bottom_grad`` and ``mask_grad``."""
    carafe_naive_backward(
        top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor
    )


def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """The same as ``carafe_forward``, without its buffers."""
    grouped = _grouped(features, group_size)
    weights = _by_tap(masks, group_size, scale_factor)
    total = 0
    for tap, window in enumerate(_taps(grouped, kernel_size)):
        # (N, G, C / G, H, 1, W, 1) times (N, G, 1, H, s, W, s)
        total = total + window[..., None, :, None] * weights[:, :, tap, None]
    output.copy_(total.reshape(output.shape))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Gradients of features and masks, written to ``bottom_grad`` and ``mask_grad``."""
    grouped = _grouped(features, group_size)
    weights = _by_tap(masks, group_size, scale_factor)
    height, width = features.shape[2:]
    grads = _grouped(top_grad, group_size)
    grads = grads.unflatten(-1, (width, scale_factor)).unflatten(-3, (height, scale_factor))
    edge = kernel_size // 2
    padded = grouped.new_zeros(
        *grouped.shape[:3], height + kernel_size - 1, width + kernel_size - 1
    )
    by_tap = torch.empty_like(weights)
    # Taps of the padded gradient are windows of it: writing to one adds to the whole.
    taps = zip(
        _taps(grouped, kernel_size), _windows(padded, kernel_size, height, width), strict=True
    )
    for tap, (window, grad_window) in enumerate(taps):
        grad_window += (grads * weights[:, :, tap, None]).sum(dim=(4, 6))
        by_tap[:, :, tap] = (grads * window[..., None, :, None]).sum(dim=2)
    inner = padded[..., edge : edge + height, edge : edge + width]
    bottom_grad.copy_(inner.reshape(bottom_grad.shape))
    mask_grad.copy_(by_tap.reshape(mask_grad.shape))


def _grouped(features: Tensor, groups: int) -> Tensor:
    """Channels in groups: (N, G, C / G, H, W)."""
    return wide(features).unflatten(1, (groups, -1))


def _by_tap(masks: Tensor, groups: int, scale: int) -> Tensor:
    """Weights of each tap and each pixel of a cell: (N, G, taps, H, s, W, s)."""
    count, _, tall, broad = masks.shape
    return wide(masks).reshape(count, groups, -1, tall // scale, scale, broad // scale, scale)


def _taps(features: Tensor, kernel: int) -> Iterator[Tensor]:
    """The map shifted by each tap of a window, zeros coming in, row by row of the window."""
    height, width = features.shape[-2:]
    return _windows(F.pad(features, (kernel // 2,) * 4), kernel, height, width)


def _windows(padded: Tensor, kernel: int, height: int, width: int) -> Iterator[Tensor]:
    """Views of a padded map, one for each tap of a window."""
    for down in range(kernel):
        for across in range(kernel):
            yield padded[..., down : down + height, across : across + width]


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Attention over the map from attention around each pixel (Zhao et al., "PSANet", ECCV 2018).

    Args:
        input: (N, h_mask * w_mask, H, W): attention of each pixel to the window around it.
        output: Written (N, H * W, H, W): 0 collects (other pixel first), 1 distributes (own first).
        psa_type: 0 collects, 1 distributes.
        num_: N.
        h_feature: H.
        w_feature: W.
        h_mask: Height of the window.
        w_mask: Width of the window.
        half_h_mask: Rows of the window above its pixel.
        half_w_mask: Columns of the window left of its pixel.
    """
    index, inside = _relative(
        input.device, h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask
    )
    # (N, other pixel, own pixel)
    full = input.flatten(2).gather(1, index.expand(num_, -1, -1)) * inside
    output.copy_((full if psa_type == 0 else full.transpose(1, 2)).reshape(output.shape))


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Gradient of the input, written to ``grad_input``; see the forward pass."""
    index, inside = _relative(
        grad_output.device, h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask
    )
    full = grad_output.flatten(2)
    full = (full if psa_type == 0 else full.transpose(1, 2)) * inside
    grad = full.new_zeros(num_, h_mask * w_mask, h_feature * w_feature)
    grad.scatter_add_(1, index.expand(num_, -1, -1), full)
    grad_input.copy_(grad.reshape(grad_input.shape))


def _relative(
    device: torch.device,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> tuple[Tensor, Tensor]:
    """Index in the window of each (other pixel, own pixel), and whether the window reaches it."""
    down = torch.arange(h_feature, device=device)
    across = torch.arange(w_feature, device=device)
    # (other row, other column, own row, own column)
    y = (down[:, None] - down + half_h_mask)[:, None, :, None]
    x = (across[:, None] - across + half_w_mask)[None, :, None, :]
    inside = (y >= 0) & (y < h_mask) & (x >= 0) & (x < w_mask)
    index = y.clamp(0, h_mask - 1) * w_mask + x.clamp(0, w_mask - 1)
    pixels = h_feature * w_feature
    return index.reshape(1, pixels, pixels), inside.reshape(1, pixels, pixels)
