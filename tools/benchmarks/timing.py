"""Time candidates against each other in interleaved rounds.

A machine's speed drifts, and drifts for all who run then: so every round times every candidate,
the order rotates from round to round, and what counts is the ratio to a baseline within a round.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

__all__ = ['Spread', 'measure', 'ratios', 'rounds', 'spread']

_MOST_ITERATIONS = 10_000


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of samples."""

    median: float
    low: float
    high: float


def spread(samples: Sequence[float]) -> Spread:
    """Summarise samples; of a single one the quartiles are itself."""
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0])
    low, median, high = statistics.quantiles(samples, n=4, method='inclusive')
    return Spread(median, low, high)


def ratios(samples: Mapping[str, Sequence[float]], baseline: str) -> dict[str, list[float]]:
    """How many times as fast as the baseline each candidate was, round by round."""
    return {
        name: [base / own for base, own in zip(samples[baseline], values, strict=True)]
        for name, values in samples.items()
    }


def rounds(names: Sequence[str], repetitions: int) -> Iterator[list[str]]:
    """Orders of the rounds: each starts one name later than the one before."""
    for i in range(repetitions):
        start = i % len(names)
        yield [*names[start:], *names[:start]]


def measure(
    candidates: Mapping[str, Callable[[], object]],
    device: torch.device,
    repetitions: int,
    sample_seconds: float = 0.02,
    each_alone: bool = False,
    tick: Callable[[str], None] = lambda name: None,
) -> dict[str, list[float]]:
    """Seconds that one call of each candidate takes, one sample a round.

    Args:
        candidates: Calls to time, by name.
        device: Where they run: CUDA events time a GPU.
        repetitions: Number of rounds.
        sample_seconds: A sample is of as many calls in a row as last so long.
        each_alone: Wait for each call before the next (latency), so that a GPU's work does not
            hide what it takes to launch the next.
        tick: Called after every sample with the candidate's name.

    Returns:
        Samples by name, in the order of the rounds.
    """
    clock = _clock(device, each_alone)
    iterations = {}
    for name, run in candidates.items():
        # The first call allocates, compiles and chooses kernels; the second is warm.
        clock(run, 1)
        once = max(clock(run, 1), 1e-9)
        if once < sample_seconds:
            # A single short call is too noisy to plan with.
            once = max(clock(run, 3) / 3, 1e-9)
        iterations[name] = min(_MOST_ITERATIONS, max(1, round(sample_seconds / once)))
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for order in rounds(list(candidates), repetitions):
        for name in order:
            samples[name].append(clock(candidates[name], iterations[name]) / iterations[name])
            tick(name)
    return samples


def _clock(device: torch.device, each_alone: bool) -> Callable[[Callable[[], object], int], float]:
    """A function that gives the seconds of so many calls."""
    if device.type != 'cuda':

        def seconds(run: Callable[[], object], iterations: int) -> float:
            start = time.perf_counter()
            for _ in range(iterations):
                run()
            return time.perf_counter() - start

    elif each_alone:

        def seconds(run: Callable[[], object], iterations: int) -> float:
            torch.cuda.synchronize(device)
            start = time.perf_counter()
            for _ in range(iterations):
                run()
                torch.cuda.synchronize(device)
            return time.perf_counter() - start

    else:

        def seconds(run: Callable[[], object], iterations: int) -> float:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize(device)
            first.record()
            for _ in range(iterations):
                run()
            last.record()
            torch.cuda.synchronize(device)
            return first.elapsed_time(last) / 1e3

    return seconds
