"""Heat conduction on a CPU in an order that keeps what is between its steps in the cache.

Nothing is recorded for a backward pass here. When an order is taken is by measurement, see
``docs/benchmarks.md``.
"""

import torch
from torch import Tensor

from .dct import analysis_basis, synthesis_basis
from .fused import has_fused_product, mkl_is_slow, product

__all__ = ['conduct_by_image', 'conduct_by_rows', 'images_are_faster', 'rows_are_faster']

# Below, the matrix products of the whole map are as fast or faster.
_ROWS_FROM_WIDTH = 192
# Half of the second-level cache of the CPUs this was measured on.
_CHUNK_BYTES = 2**20
# Values of an image from which oneDNN's product beats MKL's on a CPU that MKL is not made for.
_PRODUCT_FROM_VALUES = 2**18


def rows_are_faster(x: Tensor) -> bool:
    """Whether :func:`conduct_by_rows` beats the matrix products of whole maps.

    Long rows overflow a CPU's cache, and bfloat16's batched product copies the basis for each.

    Args:
        x: Map of shape (B, H, W, C).
    """
    return x.device.type == 'cpu' and x.dtype == torch.bfloat16 and x.size(2) >= _ROWS_FROM_WIDTH


def images_are_faster(x: Tensor) -> bool:
    """Whether :func:`conduct_by_image` beats the matrix products of all images at once.

    One image needs no batched product along its height, and large ones gain by oneDNN's product.

    Args:
        x: Map of shape (B, H, W, C).
    """
    if x.device.type != 'cpu' or not x.numel():
        return False
    return x.size(0) == 1 or _product_is_faster(x)


def _product_is_faster(x: Tensor) -> bool:
    """Whether oneDNN's product is the faster one along the height of an image."""
    if x.dtype != torch.float32 or x[0].numel() < _PRODUCT_FROM_VALUES or not mkl_is_slow():
        return False
    return has_fused_product(x, x, x, plain=True)


def conduct_by_rows(x: Tensor, decay: Tensor) -> Tensor:
    """Conduct heat a few rows at a time: there, decayed and back while they are in the cache.

    Args:
        x: Map of shape (B, H, W, C), an ordinary tensor; nothing is recorded.
        decay: Decay of shape (H, W, C), of the map's dtype.

    Returns:
        Map of shape (B, H, W, C).
    """
    _, height, width, channels = x.shape
    there, back = analysis_basis(width, x), synthesis_basis(width, x)
    x = _along_height(analysis_basis(height, x), x)
    step = max(1, _CHUNK_BYTES // max(1, width * channels * x.element_size()))
    for image in x:
        for rows, kept in zip(image.split(step), decay.split(step), strict=True):
            count = rows.size(0)
            coefficients = torch.bmm(there.expand(count, -1, -1), rows).mul_(kept)
            torch.bmm(back.expand(count, -1, -1), coefficients, out=rows)
    return _along_height(synthesis_basis(height, x), x)


def _along_height(basis: Tensor, x: Tensor) -> Tensor:
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width * channels)
    return torch.bmm(basis.expand(batch, -1, -1), x).view(batch, height, width, channels)


def conduct_by_image(x: Tensor, decay: Tensor) -> Tensor:
    """Conduct the heat of one image after the other: along the rows, the columns and back.

    Args:
        x: Map of shape (B, H, W, C), an ordinary tensor; nothing is recorded.
        decay: Decay of shape (H, W, C), of the map's dtype.

    Returns:
        Map of shape (B, H, W, C).
    """
    batch, height, width, channels = x.shape
    along_rows = analysis_basis(width, x).expand(height, -1, -1)
    along_rows_back = synthesis_basis(width, x).expand(height, -1, -1)
    down, up = analysis_basis(height, x), synthesis_basis(height, x)
    matrix, image_shape = (height, width * channels), (height, width, channels)
    multiply = _product if _product_is_faster(x) else torch.mm
    decay = decay.reshape(matrix)
    result = x.new_empty(batch, *image_shape)
    for image, conducted in zip(x, result, strict=True):
        coefficients = multiply(down, torch.bmm(along_rows, image).view(matrix)).mul_(decay)
        columns = multiply(up, coefficients).view(image_shape)
        torch.bmm(along_rows_back, columns, out=conducted)
    return result


def _product(basis: Tensor, columns: Tensor) -> Tensor:
    return product(basis, columns.T, None)
