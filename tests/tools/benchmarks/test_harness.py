"""Failures, progress and the record: nothing that was measured is lost."""

import json
import os
import re
import signal
import sys

import pytest
import torch

from mmvheat.errors import UserError


@pytest.fixture
def benchmark(load, tmp_path):
    """Make a benchmark of ten samples with a record in a file."""
    harness, options = load('harness'), load('options')

    def benchmark():
        parser = options.make_parser('A test.', repetitions=2, plural='things')
        file = tmp_path / 'made' / 'record.json'
        args = parser.parse_args(['--device', 'cpu', '--sample-ms', '0', '--json', str(file)])
        return harness.Benchmark('test', args, samples=10, what='nothing')

    return benchmark


def read(bench):
    return json.loads(bench.args.json.read_text())


def test_record_names_the_machine_and_no_folder_of_it(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, 'argv', [f'{tmp_path}/a.py', 'b/c.py', f'--json={tmp_path}/d', str(tmp_path / 'e')]
    )
    with benchmark() as bench:
        assert not read(bench)['complete']  # It is there from the start.
    record = read(bench)
    assert record['complete'] and record['command'] == 'a.py b/c.py --json=d e'
    assert str(tmp_path) not in json.dumps(record)
    machine = record['environment']
    assert machine['device'] and machine['threads'] and machine['torch'] == torch.__version__
    assert re.fullmatch(r'[0-9a-f]{40}\+?', machine['commit'])
    assert {'triton', 'timm', 'python', 'cuda', 'cudnn', 'device_type'} <= set(machine)
    assert record['options']['batch'] == 8 and record['began']


@pytest.mark.parametrize(
    ('baselines', 'baseline'), [((), 'a'), ((None, 'b'), 'b'), (('gone', 'b', 'a'), 'b')]
)
def test_ratio_to_the_first_baseline_that_there_is(
    benchmark, load, monkeypatch, baselines, baseline
):
    times = {'a': [1.0, 2.0, 8.0], 'b': [0.5, 1.0, 4.0]}
    monkeypatch.setattr(load('harness'), 'measure', lambda *_: times)
    rows = benchmark().time('what', 'group', times, baselines)
    assert {row.baseline for row in rows} == {baseline}
    wanted = {'a': 1.0, 'b': 2.0} if baseline == 'a' else {'a': 0.5, 'b': 1.0}
    assert {row.name: row.ratio.median for row in rows} == wanted


def test_a_failure_is_noted_and_a_mistake_is_not(benchmark, load, capsys):
    disagreement, mistake = load('agreement').Disagreement, UserError
    failures = {
        torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 3 GiB'): 'out of memory',
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"): 'out of memory',
        TypeError('first line\nsecond line'): 'TypeError: first line',
        disagreement('a disagrees'): 'a disagrees',
    }
    with benchmark() as bench:
        for error in failures:
            with bench.attempt('a', 2, (disagreement,), where='here'):
                raise error
        for error in (mistake('no'), disagreement('no')):
            with pytest.raises(type(error)), bench.attempt('a', 2):
                raise error
    assert [one['why'] for one in read(bench)['failures']] == list(failures.values())
    assert read(bench)['failures'][0] == {'where': 'here', 'name': 'a', 'why': 'out of memory'}
    assert capsys.readouterr().err.count('a (here): ') == len(failures)


def test_sigterm_ends_the_measuring_alone(benchmark, capsys):
    before = signal.getsignal(signal.SIGTERM)
    with benchmark() as bench:
        bench.record['points'] = [1]
        with bench.attempt('a', 1):  # It is no failure of a candidate.
            os.kill(os.getpid(), signal.SIGTERM)
            signal.sigtimedwait([], 5)
        pytest.fail('was not stopped')
    assert signal.getsignal(signal.SIGTERM) is before
    assert read(bench)['points'] == [1] and not read(bench)['complete']
    assert capsys.readouterr().err == 'stopped: only what was measured before is reported\n'


def test_an_error_leaves_an_incomplete_record(benchmark):
    with pytest.raises(RuntimeError), benchmark() as bench:
        raise RuntimeError
    assert not read(bench)['complete']


@pytest.mark.parametrize('terminal', [True, False])
def test_progress_and_tables_go_to_their_streams(benchmark, load, monkeypatch, capsys, terminal):
    clock = iter(range(0, 100, 6))
    monkeypatch.setattr(load('harness').time, 'monotonic', lambda: next(clock))
    if terminal:
        monkeypatch.setenv('TTY_COMPATIBLE', '1')
    with benchmark() as bench:
        for _ in range(4):
            bench.tick('working', 2)
        bench.table('A title', ('name', 'x'), [('[bold]', 1), ('b' * 150, 2)])
    out, err = capsys.readouterr()
    # Names are not markup, and a line is never broken where there is no terminal.
    assert 'A title' in out and '[bold]' in out
    if not terminal:
        assert 'b' * 150 in out
        assert [line.split(' samples')[0].strip() for line in err.splitlines()] == ['4/10', '8/10']
