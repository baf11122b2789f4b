"""Files of checkpoints: downloaded whole, read safely, written atomically."""

from .reading import read_checkpoint
from .safe_globals import safe_globals
from .writing import write_checkpoint

__all__ = ['read_checkpoint', 'safe_globals', 'write_checkpoint']
