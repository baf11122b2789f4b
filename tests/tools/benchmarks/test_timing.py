"""The method: interleaved rounds, ratios within a round, a limit that keeps what was measured."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch
from torch import nn

CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def timing(load):
    return load('timing')


def test_a_ratio_is_that_of_the_work(timing, monkeypatch):
    """By a clock that only work moves, and that runs slower and slower."""
    now = [0.0]
    calls = dict(four=0, one=0)
    ticks = []

    def work(name, seconds):
        calls[name] += 1
        now[0] += seconds * 1.1 ** (len(ticks) // 2)

    monkeypatch.setattr(timing, 'time', SimpleNamespace(perf_counter=lambda: now[0]))
    candidates = {'four': lambda: work('four', 0.002), 'one': lambda: work('one', 0.0005)}
    samples = timing.measure(candidates, CPU, 15, sample_seconds=0.004, tick=ticks.append)
    assert {name: len(values) for name, values in samples.items()} == {'four': 15, 'one': 15}
    assert ticks[:4] == ['four', 'one', 'one', 'four']
    relative = timing.ratios(samples, 'four')
    assert relative['four'] == [1] * 15
    assert relative['one'] == pytest.approx([4] * 15)
    # Samples last as long as asked for, after the calls that warm up and plan.
    assert calls == {'four': 5 + 15 * 2, 'one': 5 + 15 * 8}


def test_every_round_has_everyone_and_each_starts_one_later(timing):
    assert list(timing.rounds('abc', 4)) == [list('abc'), list('bca'), list('cab'), list('abc')]


def test_ratios_are_within_a_round_so_drift_cancels(timing):
    samples = {'base': [1.0, 2.0, 8.0], 'own': [0.5, 1.0, 4.0]}
    assert timing.ratios(samples, 'base')['own'] == [2.0, 2.0, 2.0]


def test_spread(timing):
    spread = timing.spread([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (spread.low, spread.median, spread.high) == (2, 3, 4)
    assert timing.spread([7.0]) == timing.Spread(7, 7, 7)


def test_bytes_kept_for_backward(load):
    count = load('memory').saved_for_backward
    linear = nn.Linear(16, 4)
    x = torch.randn(8, 16, requires_grad=True)
    # The input for the weight's gradient; the weight for the input's is a parameter.
    assert count(linear, lambda: linear(x)) == 8 * 16 * 4
    # Both factors of a product of a tensor with itself are one storage.
    assert count(linear, lambda: x * x) == 8 * 16 * 4
    assert count(linear, lambda: torch.sigmoid(linear(x))) == 8 * 16 * 4 + 8 * 4 * 4


def test_peak_memory_is_of_gpus(load):
    peak = load('memory').PeakMemory(CPU)
    assert peak.of(lambda: pytest.fail('must not run')) is None


def test_a_failure_is_noted_and_a_mistake_is_not(load):
    failures, agreement = load('failures'), load('agreement')
    noted = {}
    with failures.noting_failure(noted, 'a'):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 3 GiB')
    with failures.noting_failure(noted, 'b'):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
    with failures.noting_failure(noted, 'c'):
        raise TypeError('first line\nsecond line')
    with failures.noting_failure(noted, 'd', must_agree=False):
        raise agreement.Disagreement('d disagrees')
    with pytest.raises(agreement.Disagreement), failures.noting_failure(noted, 'e'):
        raise agreement.Disagreement('e disagrees')
    assert noted == {
        'a': 'out of memory',
        'b': 'out of memory',
        'c': 'TypeError: first line',
        'd': 'd disagrees',
    }


def test_a_time_limit_ends_the_measuring_alone(load, capsys):
    before = signal.getsignal(signal.SIGTERM)
    with load('stopping').until_stopped():
        with load('failures').noting_failure({}, 'a'):  # no candidate's failure
            os.kill(os.getpid(), signal.SIGTERM)
            signal.sigtimedwait([], 5)
        pytest.fail('was not stopped')
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == 'stopped: only what was measured before is reported\n'


def test_agreement(load):
    agreement = load('agreement')
    x = torch.tensor([1.0, -4.0])
    assert agreement.worst_error(x + 0.04, x) == pytest.approx(0.01)
    # A map that agrees does not make up for one that does not.
    assert agreement.worst_error([x, x + 1], [x, x]) == pytest.approx(0.25)
    assert agreement.worst_error(x[:1], x) == float('inf')
    assert agreement.distance([2 * x, x[:1]], [x, x[:1]]) == pytest.approx((17 / 18) ** 0.5)
    for wrong in (x * float('nan'), x[:1], x + 1):
        with pytest.raises(agreement.Disagreement, match=r'^a disagrees with b: relative error'):
            agreement.require_agreement('a', 'b', agreement.worst_error([x, wrong], [x, x]), 1e-3)
    assert agreement.require_agreement('a', 'b', 1e-4, 1e-3).error == 1e-4
