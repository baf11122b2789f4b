"""Record what the compiled mmcv gives: ``PYTHONPATH=. python tests/mmcv_ops/record.py``.

It writes ``tests/data/mmcv_ops.npz``: the cases and the Mask R-CNN of ``detector.py``.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from mmcv_ops import detector
from mmcv_ops.cases import CASES, compiled_module, run

RECORDED = Path(__file__).parents[1] / 'data' / 'mmcv_ops.npz'


def main() -> None:
    module = compiled_module()
    if module is None:
        sys.exit(
            'error: this mmcv has no compiled module: install one by `make setup MMCV=compiled`'
        )
    arrays = {
        f'{name}/{number}': array
        for name in CASES
        for number, array in enumerate(run(name, module))
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / 'detector.npz'
        detector.main(str(out))
        with np.load(out) as file:
            arrays |= {f'detector/{key}': file[key] for key in file.files if key != 'module'}
    np.savez_compressed(RECORDED, **arrays)


if __name__ == '__main__':
    main()
