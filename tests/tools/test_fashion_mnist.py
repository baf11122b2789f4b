"""Fashion-MNIST: found packed or not, where package and torchvision have it, or refused."""

import gzip
import math

import numpy as np
import pytest
from in_process import load_script

from mmvheat.cli.command import run_command

SHAPES = {
    'train-images-idx3-ubyte': (6, 28, 28),
    'train-labels-idx1-ubyte': (6,),
    't10k-images-idx3-ubyte': (4, 28, 28),
    't10k-labels-idx1-ubyte': (4,),
}


def content(shape):
    header = bytes([0, 0, 8, len(shape)]) + b''.join(n.to_bytes(4, 'big') for n in shape)
    return header + (np.arange(math.prod(shape)) % 10).astype(np.uint8).tobytes()


def write(folder, packed):
    folder.mkdir(parents=True)
    for name, shape in SHAPES.items():
        data = content(shape)
        path = folder / f'{name}.gz' if packed else folder / name
        path.write_bytes(gzip.compress(data) if packed else data)


@pytest.fixture
def script(monkeypatch):
    script = load_script('tools/prepare_fashion_mnist.py')
    monkeypatch.setattr(script, 'FILES', SHAPES)
    return script


@pytest.mark.parametrize(
    ('place', 'packed'),
    [('', True), ('usr/share/datasets/fashion-mnist', True), ('FashionMNIST/raw', False)],
)
def test_mmpretrain_reads_what_is_written(script, tmp_path, place, packed, capsys):
    pytest.importorskip('mmpretrain')
    from mmpretrain.datasets import FashionMNIST

    write(tmp_path / 'there' / place, packed)
    arguments = ['--source', str(tmp_path / 'there'), '--out', str(tmp_path / 'data')]
    script.main(arguments)
    script.main(arguments)
    assert 'already complete' in capsys.readouterr().out
    for test_mode, count in ((False, 6), (True, 4)):
        root = str(tmp_path / 'data' / 'raw')
        data = FashionMNIST(root, test_mode=test_mode, split='test', download=False)
        assert len(data) == count
        labels = [int(data.get_data_info(i)['gt_label']) for i in range(count)]
        assert labels == list(range(count))
        assert data.get_data_info(1)['img'].tobytes() == content((count, 28, 28))[16 + 784 :][:784]


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda folder: (folder / 't10k-labels-idx1-ubyte.gz').unlink(), 'has no t10k-labels'),
        (
            lambda folder: (folder / 'train-images-idx3-ubyte.gz').write_bytes(b'html'),
            'is damaged (Not a gzipped file',
        ),
        (
            lambda folder: (folder / 'train-labels-idx1-ubyte.gz').write_bytes(
                gzip.compress(content((7,)))
            ),
            'is damaged or another data set: expected bytes of shape (6,)',
        ),
        (lambda folder: [path.unlink() for path in folder.iterdir()], 'no Fashion-MNIST in'),
    ],
)
def test_what_is_missing_or_damaged_is_one_line(script, tmp_path, capsys, spoil, message):
    """With both ways to get it; and nothing is left half-written."""
    write(tmp_path / 'there', True)
    spoil(tmp_path / 'there')
    arguments = ['--source', str(tmp_path / 'there'), '--out', str(tmp_path / 'data')]
    assert run_command(lambda: script.main(arguments)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1
    assert 'dataset-fashion-mnist' in error and 'torchvision' in error
    assert not (tmp_path / 'data').exists()
