"""Functions of torch that it does not promise to keep, looked up in this one place.

Each makes something faster and none is needed: where a torch lacks one, it is None here, or the
answer is the cautious one, and the plain path is taken.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = ['dispatch_mode_is_active', 'dual_level_is_open', 'is_compiled', 'mark_batch_dynamic']


def _find(path: str) -> Any:
    """Look up a dotted name in torch; None if it is not there."""
    found = torch
    for name in path.split('.'):
        found = getattr(found, name, None)
        if found is None:
            return None
    return found


_len_dispatch_stack = _find('_C._len_torch_dispatch_stack')

# oneDNN's product with bias and activation fused in, and whether it takes bfloat16 on this CPU.
linear_pointwise = _find('ops.mkldnn._linear_pointwise')
bf16_is_supported = _find('ops.mkldnn._is_mkldnn_bf16_supported')

# Parts of the backward passes that are written by hand.
gelu_backward = _find('ops.aten.gelu_backward')
silu_backward = _find('ops.aten.silu_backward')
native_layer_norm = _find('native_layer_norm')
native_layer_norm_backward = _find('ops.aten.native_layer_norm_backward')


def dispatch_mode_is_active() -> bool:
    """Whether a mode watches or replaces operations, as FLOP counters and fake tensors do."""
    return _len_dispatch_stack is None or _len_dispatch_stack() > 0


def dual_level_is_open() -> bool:
    """Whether tensors may carry tangents of forward-mode differentiation, in any thread."""
    return getattr(forward_ad, '_current_level', 0) >= 0


def is_compiled(module: nn.Module) -> bool:
    """Whether ``module.compile()`` was called; False if torch does not tell."""
    return getattr(module, '_compiled_call_impl', None) is not None


def mark_batch_dynamic(images: Tensor) -> None:
    """Tell ``torch.compile`` that the number of images changes; else it finds out by itself."""
    mark = _find('_dynamo.maybe_mark_dynamic')  # Not before: it imports the compiler.
    if mark is not None:
        mark(images, 0)
