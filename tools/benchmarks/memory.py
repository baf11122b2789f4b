"""Memory: peak on a GPU, and the bytes that a forward pass keeps for its backward pass."""

import gc
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ['PeakMemory', 'release', 'saved_for_backward']


class PeakMemory:
    """Peak memory of one candidate, whatever else lies on the GPU.

    Enter it before the candidate's weights come to the device, so that they count.

    Args:
        device: Where it runs; only CUDA counts.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == 'cuda'
        self._device = device
        self._before = torch.cuda.memory_allocated(device) if self._cuda else 0

    def of(self, run: Callable[[], object]) -> int | None:
        """Peak bytes over what was there before, while ``run`` runs; None where not measured."""
        if not self._cuda:
            return None
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        run()
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device) - self._before


def saved_for_backward(module: nn.Module, forward: Callable[[], object]) -> int:
    """Bytes that autograd keeps between forward and backward, the parameters not counted.

    Args:
        module: Its parameters are what is not counted.
        forward: Runs it with gradients and returns what holds the graph.
    """
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # Held until all is counted: a freed storage's address would be given out again.
        graph = forward()
    total = sum(kept.values())
    del graph
    return total


def release(device: torch.device) -> None:
    """Give back what is no longer used, so that the next candidates find the device empty."""
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()
