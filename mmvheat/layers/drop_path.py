"""Stochastic depth."""

from torch import Tensor, nn

__all__ = ['DropPath']


class DropPath(nn.Module):
    """Drop the whole residual branch of a sample at random (arXiv 1603.09382).

    Args:
        drop_prob: Probability of dropping a sample's branch while training; the kept ones are
            scaled by ``1 / (1 - drop_prob)``.

    Raises:
        ValueError: If ``drop_prob`` is not in [0, 1).
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        if not 0 <= drop_prob < 1:
            raise ValueError(f'drop_prob is in [0, 1), got {drop_prob}')
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples of ``x`` of shape (B, ...) in training mode."""
        if self.drop_prob == 0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        mask = x.new_empty((x.size(0),) + (1,) * (x.dim() - 1)).bernoulli_(keep)
        return x * mask.div_(keep)

    def extra_repr(self) -> str:
        """Show the probability."""
        return f'drop_prob={self.drop_prob}'
