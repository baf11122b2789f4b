"""Files of checkpoints: downloaded whole, read safely, written atomically."""

from .download import download, is_url, local_file
from .reading import read_checkpoint
from .safe_globals import safe_globals
from .writing import check_target, write_checkpoint

__all__ = [
    'check_target',
    'download',
    'is_url',
    'local_file',
    'read_checkpoint',
    'safe_globals',
    'write_checkpoint',
]
