"""exported.py: exported files timed against each other."""

import pytest
from tiny_onnx import write_tiny_onnx


@pytest.fixture
def files(tmp_path) -> list[str]:
    kinds = {'a.onnx': {}, 'b.onnx': dict(preprocess=True, size=[8, 8])}
    return [write_tiny_onnx(tmp_path / name, 'segmentation', **kinds[name]) for name in kinds]


@pytest.fixture
def time_files(outcome):
    """Run the benchmark; it has no choice of a device."""
    return lambda *arguments: outcome('exported', *arguments)


@pytest.mark.parametrize('clock', [(), ('--cpu-time',)], ids=['wall', 'cpu'])
def test_ratios_are_to_the_first_file(time_files, files, clock):
    status, out, err, record = time_files(*files, '--batch', '1', '2', '--size', '16', *clock)
    assert status == 0, err
    names = [(row['group'], row['name'], row['baseline']) for row in record['results']]
    assert names == [
        (f'batch {batch}', name, 'a.onnx') for batch in (1, 2) for name in ('a.onnx', 'b.onnx')
    ]
    assert all(min(row['samples']) > 0 for row in record['results'])
    assert record['complete'] and 'times a.onnx' in out


def test_mistakes_are_one_line(time_files, files, tmp_path):
    fixed = write_tiny_onnx(tmp_path / 'fixed.onnx', 'segmentation', batch=3)
    cases = {
        (files[0], files[0]): 'two of the files have one name',
        (fixed, '--batch', '2'): 'fixed.onnx takes 3 images at once',
        ('none.onnx',): 'none.onnx does not exist',
        (files[0], '--cpu-time', '--threads', '2'): 'leave out --threads',
    }
    for arguments, message in cases.items():
        status, _, err, _ = time_files(*arguments)
        lines = [line for line in err.splitlines() if line.startswith('error: ')]
        assert status == 2 and len(lines) == 1 and message in lines[0], err
