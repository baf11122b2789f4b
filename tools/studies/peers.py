"""Networks beside vHeat: their sizes, and a plain one of convolutions that no library has."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

__all__ = ['PlainConvNet']


class _Block(nn.Module):
    """A depth-wise 3x3 convolution and an MLP on one residual branch.

    Args:
        dim: Channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False),
            nn.BatchNorm2d(dim),
            nn.Conv2d(dim, 4 * dim, 1),
            nn.GELU(),
            nn.Conv2d(4 * dim, dim, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.branch(x)


@MODELS.register_module()
class PlainConvNet(BaseModule):
    """A hierarchy of depth-wise convolutions: what is left without a way to mix all positions.

    Args:
        depths: Blocks of every stage.
        dims: Channels of every stage.
        in_channels: Channels of the images.
        patch_size: Stride of the stem.
        init_cfg: Initialization config dict.
    """

    def __init__(
        self,
        depths: Sequence[int],
        dims: Sequence[int],
        in_channels: int = 3,
        patch_size: int = 4,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        layers: list[nn.Module] = []
        before, stride = in_channels, patch_size
        for depth, dim in zip(depths, dims, strict=True):
            layers += [nn.Conv2d(before, dim, stride, stride), nn.BatchNorm2d(dim)]
            layers += [_Block(dim) for _ in range(depth)]
            before, stride = dim, 2
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(before))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Map images (B, in_channels, H, W) to the last stage's map."""
        return (self.layers(x),)
