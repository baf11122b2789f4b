"""Thousands of mutated checkpoints: each is read or refused in one line, and nothing else happens.

The cases are the same in every run. CI takes a share of them; `MMVHEAT_FULL=1` takes all, and
`MMVHEAT_FUZZ='truncated/17'` one, which is how a failure is run again.
"""

import os
import pickle
from collections import Counter

import pytest
import torch
from checkpoint.fuzz_canary import fired
from checkpoint.fuzz_cases import CANARY, FAMILIES, cases
from checkpoint.fuzz_pickles import call
from checkpoint.fuzz_server import FLOOR, Server

FULL = os.environ.get('MMVHEAT_FULL', '') not in ('', '0')
ONLY = os.environ.get('MMVHEAT_FUZZ', '')
# In CI every such case of a family is run; the first ones vary least.
SHARE = 9
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp('fuzz'))
    yield server
    server.close()


@pytest.fixture(scope='module')
def figures(pytestconfig):
    lines = []
    yield lines
    plugins = pytestconfig.pluginmanager
    reporter, capture = (plugins.get_plugin(n) for n in ('terminalreporter', 'capturemanager'))
    if reporter and FULL:
        names = f'\n| torch {torch.__version__} | cases | read | refused | peak |'
        with capture.global_and_fixture_disabled():
            for line in [names, '| - | - | - | - | - |', *lines]:
                reporter.write_line(line)


def chosen(family):
    found = cases(family)
    if ONLY:
        return [case for case in found if case.name.split()[0] == ONLY]
    return found if FULL else found[SHARE // 2 :: SHARE]


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.timeout(3600)
def test_a_mutated_checkpoint_is_read_or_refused_in_one_line(family, server, figures):
    ends, peak, ratio, failures = Counter(), 0, 0.0, []
    for case in chosen(family):
        outcome = server.run(case)
        ends[outcome.end] += 1
        peak = max(peak, outcome.peak)
        if outcome.size > FLOOR // 4:
            ratio = max(ratio, outcome.peak / outcome.size)
        failures += [f'{case.name}: {fault}' for fault in outcome.faults]
    counts = f'{ends.total()} | {ends["read"]} | {ends["refused"]}'
    of_file = f', {ratio:.1f} times the file' if ratio else ''
    figures.append(f'| {family} | {counts} | {peak / 2**20:.0f} MiB{of_file} |')
    assert not failures, '\n'.join(
        [f"{len(failures)} faults; MMVHEAT_FUZZ='FAMILY/NUMBER' runs one again", *failures[:40]]
    )


def test_there_are_enough_cases():
    assert sum(len(cases(family)) for family in FAMILIES) >= 2000


def test_the_canary_is_real(tmp_path):
    """What the gadgets ask for would happen, were the pickles loaded carelessly."""
    pickle.loads(b'\x80\x02' + call(('checkpoint.fuzz_canary', 'fire'), 'a') + b'.')
    assert fired == [('a',)]
    fired.clear()
    path = tmp_path / CANARY
    pickle.loads(b'\x80\x02' + call(('posix', 'system'), f'touch {path}') + b'.')
    assert path.exists()
