"""Where the set-up finds and leaves things."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / '.venv'
VENV_PYTHON = VENV / 'bin' / 'python'
LOG = VENV / 'setup.log'
STAMP = VENV / '.mmvheat-setup'
LOCK = ROOT / 'tools' / 'setup' / 'lock.txt'
PYPROJECT = ROOT / 'pyproject.toml'


def user_cache(name, variable):
    """A folder of the user's: what the variable names, else one in `~/.cache`."""
    own, home = os.environ.get(variable), os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(own or os.path.join(home, name)).expanduser()


def uv_cache():
    """The cache of uv, from which `.venv` gets hard links."""
    return user_cache('uv', 'UV_CACHE_DIR')


def wheel_cache():
    """The cache of mmcv wheels that were compiled."""
    return user_cache('mmvheat', 'MMVHEAT_CACHE') / 'wheels'
