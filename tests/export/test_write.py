"""Files of every format compute what torch computes, say what they are, or are not there."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_exports import make_segmentor, make_tiny_classifier, wrap

from mmvheat.errors import UserError
from mmvheat.export import Metadata, open_exported, write
from mmvheat.export.graph import Shape
from mmvheat.export.metadata import FORMATS, HALF
from mmvheat.export.verify import check_sizes, images, relative_difference
from mmvheat.export.write import check_request, choose_format, write_exported

pytest.importorskip('mmpretrain')
pytest.importorskip('mmseg')
pytest.importorskip('onnxruntime')
pytest.importorskip('openvino')


@pytest.fixture(scope='module')
def classifier(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    torch.manual_seed(0)
    return make_tiny_classifier(tmp_path_factory.mktemp('classifier'))


def export(module, path: Path, shape: Shape, precision: str = 'float32', **options) -> Metadata:
    """Write a file and check all that was compared."""
    metadata = Metadata(
        task=module.task,
        outputs=module.output_names,
        preprocess=shape.preprocess,
        format=choose_format(str(path), None),
        precision=precision,
        opset=20,
        **options,
    )
    sizes = check_sizes(shape, (64, 64), 1)
    checks = write_exported(module, path, shape, metadata, sizes)
    batches = [1, 3] if shape.batch is None else [shape.batch]
    names = set(module.output_names)
    assert {(one.size, one.batch) for one in checks} == {(s, b) for s in sizes for b in batches}
    assert {one.output for one in checks} == names and all(one.passed for one in checks)
    return metadata


@pytest.fixture(scope='module')
def file(classifier, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """Give a file of one size by its suffix: it takes pixels, in batches of any length."""
    module = wrap(classifier, preprocess=True)

    @cache
    def make(suffix: str) -> tuple[Path, Metadata]:
        path = tmp_path_factory.mktemp('files') / f'model{suffix}'
        shape = Shape((64, 64), None, True)
        return path, export(module, path, shape, classes=('a', 'b', 'ß'))

    return make


@pytest.mark.parametrize(
    'suffix', ['.onnx', '.pt2', '.torchscript', pytest.param('.xml', marks=pytest.mark.slow)]
)
def test_a_file_of_one_size(suffix: str, classifier, file: Callable):
    path, metadata = file(suffix)
    names = {one.name for one in path.parent.iterdir()}
    assert names == ({path.name, 'model.bin'} if suffix == '.xml' else {path.name})
    exported = open_exported(path, threads=1)
    assert exported.metadata == metadata
    image = images('blots', (64, 64), 2, 5, True)
    with torch.no_grad():
        expected = wrap(classifier, preprocess=True)(torch.from_numpy(image)).numpy()
    found = exported(image)
    assert list(found) == ['scores']
    np.testing.assert_allclose(found['scores'], expected, atol=1e-5)


def test_the_graph_is_plain(classifier, file: Callable):
    """Bases and decays are constants, no matrix is copied for each row, and GELU is one node."""
    onnx = pytest.importorskip('onnx')
    path, _ = file('.onnx')
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} <= {'', 'ai.onnx'}
    kinds = [node.op_type for node in model.graph.node]
    assert not {'Expand', 'Cos', 'Exp', 'Resize', 'Range', 'Erf', 'Shape', 'Split'} & set(kinds)
    assert kinds.count('Gelu') == 5
    # Of four blocks: two products a transform, two transforms, and five linear layers.
    assert kinds.count('MatMul') + kinds.count('Gemm') == 4 * (4 + 5) + 1
    weights = sum(4 * tensor.numel() for tensor in classifier.state_dict().values())
    assert path.stat().st_size < 1.3 * weights


@pytest.mark.slow
@pytest.mark.parametrize(
    ('kind', 'suffix', 'batch'),
    [
        ('classifier', '.onnx', None),
        ('classifier', '.onnx', 1),
        ('fpn', '.onnx', None),
        ('uper', '.pt2', None),
        ('uper', '.xml', 2),
    ],
)
def test_a_file_of_any_size(kind: str, suffix: str, batch: int | None, classifier, tmp_path: Path):
    model = classifier if kind == 'classifier' else make_segmentor(kind)
    path = tmp_path / f'model{suffix}'
    export(wrap(model), path, Shape(None, batch))
    if batch == 1:
        # ONNX Runtime's own refusal, which has no public class.
        with pytest.raises(Exception, match='invalid dimensions'):
            open_exported(path)(images('noise', (64, 64), 2, 0, False))


@pytest.mark.slow
@pytest.mark.parametrize('label_map', [False, True])
def test_a_segmentor_of_pixels_to_labels(label_map: bool, tmp_path: Path):
    module = wrap(make_segmentor('uper', bgr=True), preprocess=True, label_map=label_map)
    export(module, tmp_path / 'model.onnx', Shape((64, 96), 2, True))


@pytest.mark.parametrize('suffix', ['.torchscript', '.pt2', '.onnx'])
@pytest.mark.parametrize('precision', HALF)
def test_half_precision(precision: str, suffix: str, classifier, file: Callable, tmp_path: Path):
    path = tmp_path / f'model{suffix}'
    export(wrap(classifier), path, Shape((64, 64), 1), precision)
    assert path.stat().st_size < file(suffix)[0].stat().st_size
    scores = open_exported(path)(images('noise', (64, 64), 1, 0, False))['scores']
    assert scores.dtype == np.float32 and scores.sum() == pytest.approx(1, abs=0.02)


def test_a_file_that_differs_is_not_left_behind(classifier, tmp_path, monkeypatch):
    """Nor is what was there replaced."""
    path = tmp_path / 'model.torchscript'
    path.write_text('mine')
    real = write.exportable

    def broken(module, size, dtype):
        made = real(module, size, dtype)
        made.model.head.fc.bias += torch.tensor([0.0, 0.0, 0.01])
        return made

    monkeypatch.setattr(write, 'exportable', broken)
    with pytest.raises(UserError, match=r'model\.torchscript is not written: .* scores differ'):
        export(wrap(classifier), path, Shape((64, 64), 1))
    assert [one.name for one in tmp_path.iterdir()] == ['model.torchscript']
    assert path.read_text() == 'mine'


def test_what_is_no_number_is_a_difference():
    good = np.array([[1.0, -4.0]], np.float32)
    assert relative_difference(good + 0.5, good) == 0.125
    for bad in (np.array([[np.nan, -4.0]]), good[0]):
        assert not relative_difference(bad, good) <= 1


@pytest.mark.parametrize(
    ('name', 'format', 'any_size', 'precision', 'said'),
    [
        ('there.onnx', 'onnx', False, 'float32', 'there.onnx exists: give --force'),
        ('there.xml', 'openvino', False, 'float32', 'there.bin exists: give --force'),
        ('no/a.onnx', 'onnx', False, 'float32', 'make the folder'),
        ('a.torchscript', 'torchscript', True, 'float32', 'torchscript files are for one size'),
        ('a.pt2', 'torch-export', False, 'int8', '--int8 is for onnx and openvino'),
        ('a.xml', 'openvino', False, 'bfloat16', 'openvino has no bfloat16 files'),
    ],
)
def test_what_cannot_be_written(name, format, any_size, precision, said, tmp_path):
    for there in ('there.onnx', 'there.bin'):
        (tmp_path / there).write_text('mine')
    with pytest.raises(UserError, match=said):
        check_request(str(tmp_path / name), format, any_size, precision)


@pytest.mark.parametrize('module', ['onnx', 'onnxscript', 'onnxslim', 'onnxruntime'])
def test_a_missing_runtime(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf'{module} cannot be imported .* the extra `export`'):
        check_request(str(tmp_path / 'a.onnx'), 'onnx', False, 'float32')


@pytest.mark.parametrize('suffix', FORMATS.values())
def test_a_file_that_is_none(suffix: str, tmp_path: Path):
    path = tmp_path / f'model{suffix}'
    with pytest.raises(UserError, match='does not exist'):
        open_exported(path)
    path.write_bytes(b'no model')
    with pytest.raises(UserError, match='cannot be read'):
        open_exported(path)
