"""The method: interleaved rounds, by a clock that only work moves."""

import random

import pytest


@pytest.mark.parametrize('seed', range(8))
def test_samples_are_those_of_the_work_while_the_machine_drifts(load, monkeypatch, seed):
    timing, draw = load('timing'), random.Random(seed)
    work = {name: draw.uniform(1e-4, 1e-2) for name in 'abcd'[: draw.randint(1, 4)]}
    rounds, wanted = draw.randint(1, 9), draw.uniform(0, 0.05)
    drift = [1.0] + [draw.uniform(0.5, 2) for _ in range(rounds)]
    clock, ticks, calls = [0.0], [], dict.fromkeys(work, 0)

    def run(name):
        calls[name] += 1
        clock[0] += work[name] * drift[len(ticks) // len(work)]

    monkeypatch.setattr(timing, 'now', lambda: clock[0])
    candidates = {name: lambda name=name: run(name) for name in work}
    samples = timing.measure(candidates, rounds, wanted, tick=ticks.append)
    names = list(work)
    for i in range(rounds):
        start = i % len(names)
        # Everyone in every round, and each round starts one later.
        own = ticks[i * len(names) : (i + 1) * len(names)]
        assert own == names[start:] + names[:start]
        # What the drift does to one it does to all, so it cancels in the ratios of a round.
        assert [samples[name][i] / drift[i] for name in names] == pytest.approx(list(work.values()))
    for name, once in work.items():
        # A sample lasts as long as wanted; before them are calls to warm up and to plan.
        assert len(samples[name]) == rounds
        each = max(1, round(wanted / once))
        assert calls[name] == rounds * each + (5 if once < wanted else 2)


def test_latency_waits_for_every_call(load, monkeypatch):
    timing, events = load('timing'), []
    monkeypatch.setattr(timing, 'now', lambda: events.append('wait') or float(len(events)))
    timing.measure({'a': lambda: events.append('run')}, 3, 5.0, each_alone=True)
    runs = [i for i, event in enumerate(events) if event == 'run']
    assert len(runs) > 5 and all(events[i + 1] == 'wait' for i in runs)


def test_spread(load):
    spread = load('timing').Spread
    assert spread.of([5.0, 1.0, 2.0, 3.0, 4.0]) == spread(3, 2, 4)
    assert spread.of([7.0]) == spread(7, 7, 7)
    assert spread(1, 2, 3) * 2 == spread(2, 4, 6)
    assert str(spread(1234.5, 0.0123456, 0)) == '1234 [0.0123, 0.00]'
