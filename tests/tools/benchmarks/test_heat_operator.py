"""The operator's benchmark: it fits exponents, counts bytes, and refuses a wrong operator."""

import pytest
import torch

MAP = ('heat_operator', '--maps', '5x4x3', '--batch', '2')


@pytest.fixture
def heat(load):
    return load('time_heat_operator')


@pytest.mark.parametrize('power', [1.0, 1.5])
def test_exponent_of_known_data(heat, power):
    tokens = [56**2, 112**2, 256**2]
    assert heat.exponent(tokens, [3e-9 * n**power for n in tokens]) == pytest.approx(power)
    # Least squares, not the ends alone: a bump in the middle of a symmetric range has no slope.
    assert heat.exponent([1, 10, 100], [1, 5, 1]) == pytest.approx(0)


def test_bytes_are_each_input_and_output_once(heat):
    x, k = torch.zeros(2, 5, 4, 3, dtype=torch.bfloat16), torch.zeros(5, 4, 3)
    moved = [heat.moved_bytes(x, k, mode) for mode in ('copy', 'forward', 'forward+backward')]
    assert moved == [2 * 240, 2 * 240 + 240, 5 * 240 + 3 * 240]


def test_report(outcome, load, tmp_path):
    command, picture = load('heat_operator'), tmp_path / 'made' / 'picture.png'
    status, out, err, record = outcome(
        *(*MAP, '--exponent-sizes', '6', '12', '--exponent-channels', '2', '--plot', str(picture))
    )
    assert status == 0, err
    assert record['complete'] and record['failures'] == []
    # Elsewhere 'fused' is 'matrix' again, and 'rows' and 'images' record nothing.
    forward = ['copy', *(name for name in command.OPERATORS if name != 'fused')]
    names = {
        'forward': forward,
        'forward+backward': [name for name in forward if name not in ('rows', 'images')],
    }
    rows = {(row['measure'], row['group'], row['name']): row for row in record['results']}
    assert list(rows) == [
        (mode, shape, name)
        for shape in ('5x4x3', '6x6x2', '12x12x2')
        for mode in command.MODES
        for name in names[mode]
    ]
    for (mode, shape, name), row in rows.items():
        assert len(row['samples']) == 2 and row['baseline'] == 'copy'
        assert row['seconds']['low'] <= row['seconds']['median'] <= row['seconds']['high']
        figures, copied = row['figures'], rows[mode, shape, 'copy']['figures']['bytes']
        assert figures['bytes_per_second'] * row['seconds']['median'] == pytest.approx(
            figures['bytes']
        )
        assert figures['share_of_copy']['median'] == pytest.approx(
            row['ratio']['median'] * figures['bytes'] / copied
        )
        assert f'{shape} {name}' in out
    assert [(one['measure'], one['name']) for one in record['exponents']] == [
        (mode, name) for mode in command.MODES for name in names[mode]
    ]
    # Each operator: the reference, and at each of three maps the result and, twice, gradients.
    operators = len(forward[1:])
    assert len(record['agreements']) == operators * (1 + 3) + (operators - 2) * 3 * 3
    assert all(one['error'] <= one['tolerance'] for one in record['agreements'])
    assert picture.stat().st_size > 10_000


def wrong_everywhere(x, k):
    return 1.001 * x


def wrong_gradient(x, k):
    from mmvheat.ops import heat_conduction

    return heat_conduction(x, k) + 0.1 * (k - k.detach())


@pytest.mark.parametrize(
    ('operator', 'said'),
    [
        (
            wrong_everywhere,
            'operator einsum in float32 at 6x9x4 disagrees with mmvheat.ops.reference',
        ),
        (wrong_gradient, 'operator einsum (dk) in float32 at 5x4x3 disagrees with float64'),
    ],
)
def test_wrong_operator_is_not_reported(outcome, load, monkeypatch, operator, said):
    monkeypatch.setattr(load('conduction'), 'einsum', operator)
    status, out, err, record = outcome(*MAP, '--exponent-sizes', '--operators', 'einsum')
    assert status == 2
    assert err.startswith(f'error: {said}: relative error ') and err.count('\n') == 1
    assert 'microseconds' not in out and not record['complete']
    assert all(row['measure'] == 'forward' for row in record['results'])


def test_an_operator_that_cannot_run_is_left_out(outcome, load, monkeypatch):
    conduction = load('conduction')

    def fails_on_large_maps(x, k):
        if x.size(1) == 5 and x.requires_grad:
            raise torch.OutOfMemoryError('CUDA out of memory')
        return conduction.heat_conduction(x, k)

    monkeypatch.setattr(conduction, 'einsum', fails_on_large_maps)
    arguments = ('--exponent-sizes', '3', '5', '--operators', 'mmvheat', 'einsum')
    status, _, err, record = outcome(*MAP, *arguments, '--exponent-channels', '2')
    assert status == 0 and err.count('out of memory') == 2
    where = {'measure': 'forward+backward', 'group': '5x4x3', 'name': 'einsum'}
    assert record['failures'][0] == {**where, 'why': 'out of memory'}
    names = [row['name'] for row in record['results'] if row['measure'] == 'forward+backward']
    assert names == ['copy', 'mmvheat', 'copy', 'mmvheat', 'einsum', 'copy', 'mmvheat']
    fitted = [one['name'] for one in record['exponents'] if one['measure'] == 'forward+backward']
    assert fitted == ['copy', 'mmvheat']


def test_compiled_beside_uncompiled(outcome):
    status, _, err, record = outcome(
        *(*MAP, '--exponent-sizes', '--operators', 'mmvheat', '--compile', 'eager'),
        *('--dtype', 'bfloat16', '--modes', 'forward'),
    )
    assert status == 0, err
    assert [row['name'] for row in record['results']] == ['copy', 'mmvheat', 'mmvheat compiled']
