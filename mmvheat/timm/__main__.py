"""Register vHeat among timm's models, then run a script: ``python -m mmvheat.timm SCRIPT ARGS``.

timm looks for models in its own package alone, so its ``train.py`` and the like need this start.
"""

import mmvheat.timm  # noqa: F401  registers the models
from mmvheat.mmcv_ops.run import run_script

if __name__ == '__main__':
    run_script('mmvheat.timm')
