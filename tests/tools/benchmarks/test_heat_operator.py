"""The operator's benchmark: it fits exponents, counts bytes, and refuses a wrong operator."""

import pytest
import torch

MAP = ('--maps', '5x4x3', '--batch', '2')


@pytest.fixture(scope='module')
def benchmark(load):
    return load('heat_operator')


@pytest.mark.parametrize('power', [1.0, 1.5])
def test_exponent_of_known_data(benchmark, power):
    tokens = [56**2, 112**2, 256**2]
    assert benchmark.exponent(tokens, [3e-9 * n**power for n in tokens]) == pytest.approx(power)
    # Least squares, not the ends alone: a bump in the middle of a symmetric range has no slope.
    assert benchmark.exponent([1, 10, 100], [1, 5, 1]) == pytest.approx(0)


def test_bytes_are_each_input_and_output_once(benchmark):
    x = torch.zeros(2, 5, 4, 3, dtype=torch.bfloat16)
    k = torch.zeros(5, 4, 3)
    assert benchmark.moved_bytes(x, k, 'copy') == 2 * 240
    assert benchmark.moved_bytes(x, k, 'forward') == 2 * 240 + 240
    assert benchmark.moved_bytes(x, k, 'forward+backward') == 5 * 240 + 3 * 240


def test_report(outcome, tmp_path):
    picture = tmp_path / 'made' / 'picture.png'
    status, out, err, record = outcome(
        *('heat_operator', *MAP, '--exponent-sizes', '6', '12', '--exponent-channels', '2'),
        *('--operators', 'mmvheat', 'einsum'),
        *('--plot', str(picture)),
    )
    assert status == 0, err
    assert record['complete'] and record['failures'] == []
    machine = record['environment']
    assert machine['device'] and machine['threads'] == 1 and machine['torch'] == torch.__version__
    assert {'triton', 'timm', 'commit', 'python'} <= set(machine)
    assert record['options']['batch'] == 2 and record['command'] and record['began']
    rows = {(row['measure'], row['group'], row['name']): row for row in record['results']}
    assert len(rows) == 2 * 3 * 3
    for (_, _, name), row in rows.items():
        assert len(row['samples']) == 3 and row['baseline'] == 'copy'
        assert row['seconds']['low'] <= row['seconds']['median'] <= row['seconds']['high']
        share = row['figures']['share_of_copy']['median']
        assert share == 1 if name == 'copy' else share > 0
    assert {(one['measure'], one['name']) for one in record['exponents']} == {
        (mode, name)
        for mode in ('forward', 'forward+backward')
        for name in ('copy', 'mmvheat', 'einsum')
    }
    # Each operator: the reference, and at each of three maps the result and, twice, gradients.
    assert len(record['agreements']) == 2 * (1 + 3 * (1 + 3))
    assert all(one['error'] <= one['tolerance'] for one in record['agreements'])
    assert '5x4x3 einsum' in out and 'exponent' in out and 'times mmvheat' in out
    assert picture.stat().st_size > 10_000


def wrong_everywhere(x, k):
    return 1.001 * x


def wrong_gradient(x, k):
    from mmvheat.ops import heat_conduction

    return heat_conduction(x, k) + 0.1 * (k - k.detach())


@pytest.mark.parametrize(
    ('operator', 'said'),
    [
        (wrong_everywhere, 'operator new in float32 at 6x9x4 disagrees with mmvheat.ops.reference'),
        (wrong_gradient, 'operator new (dk) in float32 at 5x4x3 disagrees with float64'),
    ],
)
def test_wrong_operator_is_not_reported(outcome, load, monkeypatch, operator, said):
    monkeypatch.setitem(load('operators').OPERATORS, 'new', operator)
    status, out, err, record = outcome('heat_operator', *MAP, '--exponent-sizes')
    assert status == 2
    assert err.startswith(f'error: {said}: relative error ') and err.count('\n') == 1
    assert 'tolerance 1e-04; nothing is reported' in err
    assert not out and not (record and record['results'])


def test_an_operator_that_cannot_run_is_left_out(outcome, load, monkeypatch):
    def fails_on_large_maps(x, k):
        if x.size(1) == 5 and x.requires_grad:
            raise torch.OutOfMemoryError('CUDA out of memory')
        return load('operators').OPERATORS['mmvheat'](x, k)

    monkeypatch.setitem(load('operators').OPERATORS, 'new', fails_on_large_maps)
    status, out, err, record = outcome(
        'heat_operator', *MAP, '--exponent-sizes', '--operators', 'mmvheat', 'new'
    )
    assert status == 0
    assert err == 'new, forward+backward at 5x4x3: out of memory\n'
    assert record['failures'] == [
        {
            'measure': 'forward+backward',
            'group': '5x4x3',
            'name': 'new',
            'why': 'out of memory',
        }
    ]
    names = [row['name'] for row in record['results'] if row['measure'] == 'forward+backward']
    assert names == ['copy', 'mmvheat']
    assert record['exponents'] == []


def test_compiled_beside_uncompiled(outcome):
    status, _, err, record = outcome(
        *('heat_operator', *MAP, '--exponent-sizes', '--operators', 'mmvheat'),
        *('--compile', 'aot_eager', '--dtype', 'bfloat16', '--modes', 'forward'),
    )
    assert status == 0, err
    assert [row['name'] for row in record['results']] == ['copy', 'mmvheat', 'mmvheat compiled']


def test_files_name_no_folder_of_this_machine(process, tmp_path):
    file = tmp_path / 'result.json'
    done = process(
        *('heat_operator.py', '--maps', '3x3x2', '--batch', '1', '--exponent-sizes'),
        *('--repetitions', '1', '--sample-ms', '0', '--json', file, '--modes', 'forward'),
    )
    assert done.returncode == 0, done.stderr
    text = file.read_text()
    assert '--json result.json' in text
    assert str(tmp_path) not in text
