"""The precision in which the functions of this room compute."""

from torch import Tensor

__all__ = ['wide']


def wide(tensor: Tensor) -> Tensor:
    """A float16 or bfloat16 tensor in float32, any other as it is.

    Half-precision coordinates are whole pixels from 1024 on, and torchvision has no bfloat16.
    """
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor
