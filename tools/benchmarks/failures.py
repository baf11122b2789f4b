"""A candidate that cannot run is reported as such, and the others run on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from agreement import Disagreement

from mmvheat.errors import UserError

__all__ = ['OUT_OF_MEMORY', 'noting_failure']

OUT_OF_MEMORY = 'out of memory'


@contextmanager
def noting_failure(failures: dict[str, str], name: str, must_agree: bool = True) -> Iterator[None]:
    """Note in ``failures`` why ``name`` cannot run; mistakes of the user are let through.

    Args:
        failures: Where to note it.
        name: The candidate.
        must_agree: Let a result that disagrees through as well: it ends the benchmark.
    """
    try:
        yield
    except UserError as error:
        if must_agree or not isinstance(error, Disagreement):
            raise
        failures[name] = str(error)
    except Exception as error:
        if _is_out_of_memory(error):
            failures[name] = OUT_OF_MEMORY
        else:
            first = next(iter(str(error).strip().splitlines()), '')
            failures[name] = f'{type(error).__name__}: {first}'[:120]


def _is_out_of_memory(error: Exception) -> bool:
    """Whether the memory, of GPU or machine, did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
