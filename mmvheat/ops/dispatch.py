"""Plain torch or a fused path: decided here, from what the tensors are and in which mode torch is.

The functions of torch that it does not promise to keep are looked up here too. Each makes something
faster and none is needed: where a torch lacks one, it is None here, or the answer is the cautious
one, and the plain path is taken.
"""

from collections.abc import Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = [
    'compute_dtype',
    'dual_level_is_open',
    'has_hand_written_backward',
    'has_open_size',
    'is_capturing',
    'is_compiled',
    'is_exporting',
    'is_plain',
    'mark_batch_dynamic',
    'multiply',
    'needs_grad',
    'runs_plain',
    'without_autocast',
]


def is_plain(tensors: Iterable[Tensor | None]) -> bool:
    """Whether all are ordinary tensors in memory: not traced, fake, wrapped, watched or dual.

    What is done behind torch's back, such as keeping a result, writing in-place or calling a fused
    kernel, is right for these alone: tracers would bake it in, FLOP counters would miss it and
    tangents would be lost.

    Args:
        tensors: The tensors; None counts as plain.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if _dispatch_mode_is_active() or dual_level_is_open():
        return False
    try:
        for tensor in tensors:
            if tensor is None:
                continue
            if type(tensor) not in (Tensor, nn.Parameter):
                return False
            tensor.data_ptr()
    except RuntimeError:  # tensors of torch.func have no memory of their own
        return False
    return True


def runs_plain(module: nn.Module, *tensors: Tensor | None) -> bool:
    """Whether a module's weights and the tensors it is called with are plain, see :func:`is_plain`.

    A block of the model asks this once and hands the answer down (``plain``) to what it calls.
    """
    if torch.compiler.is_compiling():
        return False
    return is_plain((*tensors, *_weights(module)))


def _weights(module: nn.Module) -> Iterator[Tensor | None]:
    """Give all parameters of a module: ``module.parameters()``, but five times as fast."""
    yield from module._parameters.values()
    for child in module._modules.values():
        if child is not None:
            yield from _weights(child)


def needs_grad(tensors: Iterable[Tensor]) -> bool:
    """Whether an operation on the tensors is recorded for a backward pass."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def multiply(x: Tensor, y: Tensor, overwrite: bool) -> Tensor:
    """Compute ``x * y``, in the memory and dtype of ``x`` if that may be overwritten.

    Fresh memory is slow: a CPU's system clears it page by page.
    """
    return x.mul_(y) if overwrite else x * y


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured: what is made now has no values until it replays."""
    return device.type == 'cuda' and torch.cuda.is_current_stream_capturing()


def is_exporting() -> bool:
    """Whether ``torch.export`` draws up a graph, without the compiler (``strict=False``).

    Such a graph is for others to run, and Python runs as it is meanwhile.
    """
    if torch.compiler.is_dynamo_compiling() or _is_exporting is None:
        return False
    return _is_exporting()


def has_open_size(sizes: Iterable[Hashable]) -> bool:
    """Whether one of the sizes is a symbol in a graph that ``torch.export`` draws up."""
    return any(isinstance(size, torch.SymInt) for size in sizes)


def compute_dtype(x: Tensor) -> torch.dtype:
    """What a matrix product with ``x`` is computed in: its dtype, or that of autocast.

    A compiler cannot ask for autocast's: there it is the dtype of ``x``, and the product itself is
    cast.
    """
    kind = x.device.type
    if torch.compiler.is_compiling():
        return x.dtype
    # Asking about autocast on the meta device is an error, for it has none.
    if kind != 'meta' and x.dtype != torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def without_autocast(device_type: str) -> AbstractContextManager:
    """Switch autocast off; on the meta device, which has none, there is nothing to switch.

    An exported graph is of one precision: a switch in it would only be in the way of a runtime.
    """
    if device_type == 'meta' or is_exporting():
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def _find(path: str) -> Any:
    """Look up a dotted name in torch; None if it is not there."""
    found = torch
    for name in path.split('.'):
        found = getattr(found, name, None)
        if found is None:
            return None
    return found


_is_exporting = _find('compiler.is_exporting')
_len_dispatch_stack = _find('_C._len_torch_dispatch_stack')

# oneDNN's product with bias and activation fused in, and whether it takes bfloat16 on this CPU.
linear_pointwise = _find('ops.mkldnn._linear_pointwise')
bf16_is_supported = _find('ops.mkldnn._is_mkldnn_bf16_supported')

# The same with an addition fused in, its convolution, and weights in the order that both want.
linear_pointwise_add = _find('ops.mkldnn._linear_pointwise.binary')
convolution_pointwise = _find('ops.mkldnn._convolution_pointwise')
reorder_linear_weight = _find('ops.mkldnn._reorder_linear_weight')
reorder_convolution_weight = _find('ops.mkldnn._reorder_convolution_weight')

# Parts of the backward passes that are written by hand.
gelu_backward = _find('ops.aten.gelu_backward')
silu_backward = _find('ops.aten.silu_backward')
native_layer_norm = _find('native_layer_norm')
native_layer_norm_backward = _find('ops.aten.native_layer_norm_backward')


def has_hand_written_backward() -> bool:
    """Whether torch has all parts of the backward passes that are written by hand."""
    parts = gelu_backward, silu_backward, native_layer_norm, native_layer_norm_backward
    return None not in parts


def _dispatch_mode_is_active() -> bool:
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
