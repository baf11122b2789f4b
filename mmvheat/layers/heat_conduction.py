"""Heat conduction for anyone's network: one module, for maps in either layout and of any size."""

from collections.abc import Sequence

from torch import Tensor, nn

from .heat2d import operator_around
from .mixers import make_mixer

__all__ = ['HeatConduction2d']


class HeatConduction2d(nn.Module):
    """Mix all positions of a map by heat conduction, in O(N^1.5) for N of them.

    It is vHeat's operator (arXiv 2405.16555, Sec. 3.3) with a frequency embedding of its own, in
    the place of attention. With ``projections=False`` it is the conduction alone, every channel for
    itself, in the place of a depth-wise convolution. ``docs/plug_and_play.md`` has examples.

    Args:
        dim: Channels.
        size: Height and width of the maps that the frequency embedding is made for, a number or
            two. Maps of any size are taken: for others it is interpolated in each pass, so give
            the size that training uses.
        channels_first: Whether maps are (B, C, H, W), else (B, H, W, C).
        projections: Whether to have the linear layers, the gate and the depth-wise convolution
            around conduction, as vHeat has.
        dwconv: Whether the convolution is among these.
        operator: As of :class:`mmvheat.models.VHeatArch`, like all that follow.
        diffusivity: Where the diffusivity comes from.
        k: The number of ``diffusivity='fixed'``.

    Raises:
        ValueError: If an argument is unknown or out of range, or two do not belong together.

    Example:
        >>> import torch
        >>> heat = HeatConduction2d(dim=64)
        >>> heat(torch.rand(1, 64, 20, 33)).shape
        torch.Size([1, 64, 20, 33])
    """

    def __init__(
        self,
        dim: int,
        size: int | Sequence[int] = 14,
        channels_first: bool = True,
        projections: bool = True,
        dwconv: bool = True,
        operator: str = 'heat',
        diffusivity: str = 'predicted',
        k: float | None = None,
    ) -> None:
        super().__init__()
        if type(dim) is not int or dim < 1:
            raise ValueError(f'dim is a positive number of channels, got {dim!r}')
        height_width = (size, size) if isinstance(size, int) else tuple(size)
        if len(height_width) != 2 or not all(type(n) is int and n > 0 for n in height_width):
            raise ValueError(
                f'size is a positive number of positions or two (height, width), got {size!r}'
            )
        self.dim = dim
        self.channels_first = channels_first
        mixer = make_mixer(dim, height_width, operator, diffusivity, k)
        self.mix = operator_around(dim, mixer, dwconv) if projections else mixer

    def forward(self, x: Tensor) -> Tensor:
        """Conduct heat over a map.

        Args:
            x: Map of shape (B, C, H, W), or (B, H, W, C), floating point.

        Returns:
            Map of the same shape. With channels first it is a view of one that has them last, as
            of torch's ``channels_last`` memory format.

        Raises:
            ValueError: If ``x`` has not four dimensions, or another number of channels.
        """
        if x.dim() != 4 or x.size(1 if self.channels_first else 3) != self.dim:
            layout = '(B, C, H, W)' if self.channels_first else '(B, H, W, C)'
            raise ValueError(f'expected {layout} with C = {self.dim}, got {tuple(x.shape)}')
        if not self.channels_first:
            return self.mix(x)
        return self.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
