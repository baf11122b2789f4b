"""What a checkpoint may hold besides tensors and plain values.

`torch.load(..., weights_only=True)` refuses every global it does not know. Two kinds of honest
checkpoints meet that refusal: mmengine's (log histories) and the published ones (a yacs config).
This list lets in exactly what those two need; nothing on it can run foreign code.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer

__all__ = ['safe_globals']

_STATISTICS = ('min', 'max', 'mean', 'current')


def _statistics_only(owner: Any, name: str) -> Callable:
    """Stand in for `getattr`, by which HistoryBuffer pickles its four statistics methods."""
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise ValueError(f'getattr({owner!r}, {name!r}) is not allowed in a checkpoint')
    return getattr(HistoryBuffer, name)


def safe_globals() -> list[Callable | tuple[Callable, str]]:
    """List what to allow, for `torch.serialization.safe_globals` or `add_safe_globals`.

    Returns:
        mmengine's HistoryBuffer and the NumPy arrays, scalars and
        dtypes it is made of, under the names of NumPy 1 and 2; a `getattr` that serves
        HistoryBuffer's statistics alone; yacs' CfgNode, read as an OrderedDict without yacs.
    """
    # Taken from objects, as their modules moved between NumPy 1 and 2.
    reconstruct = np.empty(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    allowed = [HistoryBuffer, np.ndarray, np.dtype]
    allowed += [type(np.dtype(name)) for name in ('float32', 'float64', 'int32', 'int64')]
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        allowed += [(reconstruct, f'{module}._reconstruct'), (scalar, f'{module}.scalar')]
    allowed += [(_statistics_only, 'builtins.getattr'), (OrderedDict, 'yacs.config.CfgNode')]
    return allowed
