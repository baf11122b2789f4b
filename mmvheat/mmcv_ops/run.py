"""Import mmvheat, then run a script: ``python -m mmvheat.mmcv_ops.run SCRIPT ARGS``.

For scripts that import ``mmcv.ops`` before they read the config whose ``custom_imports`` name
mmvheat.
"""

import sys
from pathlib import Path

import mmvheat  # noqa: F401  installs mmvheat.mmcv_ops

__all__ = ['run_script']


def run_script(module: str) -> None:
    """Run the script that the command line names, as Python would.

    The calling module stays the main one: processes that the script spawns import it, and with it
    what it imports.

    Args:
        module: Name of the calling module, for its usage line.
    """
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
        sys.exit(f'usage: python -m {module} SCRIPT [ARGS]: SCRIPT is a Python file')
    sys.argv = sys.argv[1:]
    script = Path(sys.argv[0])
    sys.path.insert(0, str(script.resolve().parent))
    names = {'__name__': '__main__', '__file__': str(script)}
    exec(compile(script.read_text(), script, 'exec'), names)


if __name__ == '__main__':
    run_script('mmvheat.mmcv_ops.run')
