"""Time candidates against each other in interleaved rounds.

The speed of a machine drifts while a benchmark runs. So every round times every candidate, the
order rotates from round to round, and what counts is the ratio to a baseline within one round.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of samples."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> 'Spread':
        """Summarise samples; the quartiles of a single one are itself."""
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        low, median, high = statistics.quantiles(samples, n=4, method='inclusive')
        return cls(median, low, high)

    def __mul__(self, factor: float) -> 'Spread':
        return Spread(self.median * factor, self.low * factor, self.high * factor)

    def __str__(self) -> str:
        return f'{_digits(self.median)} [{_digits(self.low)}, {_digits(self.high)}]'


@dataclass
class Timed:
    """One candidate's samples of one measure.

    Attributes:
        measure: What was timed.
        group: What it was timed on; ratios are within a group.
        name: The candidate.
        samples: Seconds of one call, one sample for each round.
        seconds: Their median and quartiles.
        baseline: The candidate that the ratio is to.
        ratio: How many times as fast as the baseline, round by round.
        figures: Further figures, such as images per second.
        yardsticks: Samples of calls that were timed in the same rounds and are no candidates.
    """

    measure: str
    group: str
    name: str
    samples: list[float]
    seconds: Spread
    baseline: str
    ratio: Spread
    figures: dict
    yardsticks: dict[str, list[float]] = field(default_factory=dict)


def measure(
    candidates: Mapping[str, Callable[[], object]],
    repetitions: int,
    sample_seconds: float = 0.02,
    each_alone: bool = False,
    tick: Callable[[str], None] = lambda name: None,
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Seconds that one call of each candidate takes, one sample for each round.

    Args:
        candidates: Calls to time, by name.
        repetitions: Number of rounds.
        sample_seconds: A sample is the mean of as many calls as take so long.
        each_alone: Wait for each call before the next (latency): otherwise a GPU computes while
            the next call is launched.
        tick: Called after every sample with the candidate's name.
        clock: Gives seconds; :func:`now` if None.
    """
    clock = clock or now

    def seconds(run: Callable[[], object], calls: int) -> float:
        start = clock()
        for _ in range(calls):
            run()
            if each_alone:
                clock()
        return clock() - start

    calls = {}
    for name, run in candidates.items():
        # The first call allocates, compiles and chooses kernels; the second is warm.
        seconds(run, 1)
        once = seconds(run, 1)
        if once < sample_seconds:
            once = seconds(run, 3) / 3  # A single short call is too noisy to plan with.
        calls[name] = min(10_000, max(1, round(sample_seconds / max(once, 1e-9))))
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    order = deque(candidates)
    for _ in range(repetitions):
        for name in order:
            samples[name].append(seconds(candidates[name], calls[name]) / calls[name])
            tick(name)
        order.rotate(-1)
    return samples


def now() -> float:
    """Seconds of a clock, when a GPU that is in use has done its work."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def _digits(value: float) -> str:
    """Three digits of a number, without an exponent."""
    digits = 2 - math.floor(math.log10(abs(value))) if value else 2
    return f'{value:.{max(0, digits)}f}'
