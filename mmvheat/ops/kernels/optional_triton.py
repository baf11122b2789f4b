"""Triton, if it is installed."""

import os

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

__all__ = ['HAS_TRITON', 'INTERPRETED', 'constexpr', 'jit', 'next_power_of_2', 'tl', 'triton']

HAS_TRITON = triton is not None
# Triton looks once, when it is imported; its interpreter runs on tensors in main memory.
INTERPRETED = HAS_TRITON and os.environ.get('TRITON_INTERPRET') == '1'
# The mark of a kernel's compile-time arguments.
constexpr = tl.constexpr if HAS_TRITON else int


def jit(function):
    """Compile a kernel with Triton; without it, leave the function, which is then never called."""
    return triton.jit(function) if HAS_TRITON else function


def next_power_of_2(number: int) -> int:
    """The smallest power of two that is not below a positive number."""
    return 1 << (number - 1).bit_length()
