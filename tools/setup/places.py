"""Where the set-up finds and leaves things."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / '.venv'
VENV_PYTHON = VENV / 'bin' / 'python'
LOG = VENV / 'setup.log'
STAMP = VENV / '.mmvheat-setup'
CONSTRAINTS = ROOT / 'tools' / 'setup' / 'constraints.txt'
PYPROJECT = ROOT / 'pyproject.toml'

PYTHON = (3, 11)


def user_cache():
    """The user's caches: `$XDG_CACHE_HOME`, else `~/.cache`."""
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()


def wheel_cache():
    """The cache of wheels: in `$MMVHEAT_CACHE`, else with the user's other caches."""
    own = os.environ.get('MMVHEAT_CACHE')
    return (Path(own).expanduser() if own else user_cache() / 'mmvheat') / 'wheels'
