"""tools/export.py: a file and the table of what was compared, or one line for a mistake."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import load_script, run_script
from tiny_models import CLASSES, make_tiny_model

from mmvheat.checkpoint import fold_file
from mmvheat.export import metadata, open_exported

CONFIGS = Path(__file__).parent / 'configs'
_TOOL = 'tools/export.py'


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp('checkpoints')
    torch.manual_seed(0)
    for library, classes in CLASSES.items():
        make_tiny_model(CONFIGS / f'{library}.py', classes, folder / f'{library}.pth')
    return {library: folder / f'{library}.pth' for library in CLASSES}


@pytest.fixture
def export(tmp_path, checkpoints, tiny_data, monkeypatch, capsys) -> Callable:
    """Export in an empty folder; give the exit status, the output and the errors."""
    monkeypatch.chdir(tmp_path)

    def export(library: str, *options: object, checkpoint: Path | None = None) -> tuple:
        capsys.readouterr()
        arguments = (CONFIGS / f'{library}.py', checkpoint or checkpoints[library], *options)
        try:
            status = run_script(_TOOL, *arguments)
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return export


def test_its_choices_are_those_of_the_package():
    tool = load_script(_TOOL)
    assert tool.FORMATS == tuple(metadata.FORMATS) and tool.HALF == metadata.HALF


def test_a_label_map_of_pixels(export: Callable, checkpoints: dict[str, Path]):
    """The class of each pixel, from pixels, as the checkpoint's model gives it."""
    options = ('--preprocess', '--label-map', '--size', 64, 96, '--batch', 2)
    status, out, error = export('segmentation', 'model.torchscript', *options)
    assert status == 0, error
    row = next(line.split() for line in out.splitlines() if line.startswith('64 x 96'))
    assert row == ['64', 'x', '96', '2', 'labels', '0.0e+00', '1e-04']
    assert 'wrote model.torchscript: segmentation, images of 64 x 96, batch 2' in out
    exported = open_exported('model.torchscript')
    told = exported.metadata
    assert told.classes == CLASSES['segmentation'] and told.palette[1] == (250, 20, 0)
    assert told.mean == (127.0,) * 3 and told.source['config'] == 'segmentation.py'
    assert told.size == (64, 96) and told.batch == 2 and told.opset is None
    digest = hashlib.sha256(checkpoints['segmentation'].read_bytes()).hexdigest()
    assert told.source['sha256'] == digest
    labels = exported(np.zeros((2, 64, 96, 3), np.uint8))['labels']
    assert labels.shape == (2, 64, 96) and set(np.unique(labels)) <= {0, 1, 2}


def test_backbone_and_neck_alone(export: Callable):
    status, out, error = export('detection', 'model.torchscript', '--features', '--batch', 1)
    assert status == 0, error
    maps = open_exported('model.torchscript')(np.zeros((1, 3, 64, 64), np.float32))
    rows = {name: one.shape[2] for name, one in maps.items()}
    assert rows == {'p0': 16, 'p1': 8, 'p2': 4, 'p3': 2}


def test_a_detector_that_is_not_known_gives_its_maps(export: Callable):
    """And one line says why."""
    options = ('--cfg-options', 'model.test_cfg.rcnn.nms.type=soft_nms')
    status, out, error = export('detection', 'model.torchscript', *options)
    assert status == 0, error
    assert 'wrote model.torchscript: features' in out
    assert 'backbone and neck alone: ' in out and 'soft_nms' in out


@pytest.mark.slow
def test_int8(export: Callable, tiny_data: Path):
    """What it loses is told and not judged."""
    pytest.importorskip('onnxruntime')
    folder = tiny_data / 'classes' / 'train'
    options = ('--int8', '--calibration', folder, '--calibration-images', 4)
    status, out, error = export('classification', 'model.onnx', *options)
    assert status == 0, error
    assert 'not judged' in out and open_exported('model.onnx').metadata.precision == 'int8'


@pytest.mark.parametrize(
    ('library', 'options', 'said'),
    [
        ('classification', 'a.onnx --format caffe', "invalid choice: 'caffe'"),
        ('classification', 'a.tflite', 'a.tflite: the format cannot be told: end it with .onnx'),
        ('classification', 'a.onnx --format openvino', 'files of openvino end with .xml'),
        ('classification', 'there.onnx', 'there.onnx exists: give --force'),
        ('classification', 'no/a.onnx', 'make the folder'),
        ('classification', 'a.onnx --size 0', "'0' is neither a number of pixels"),
        ('classification', 'a.onnx --size 64 dynamic', '--size takes N, H W or dynamic'),
        ('classification', 'a.onnx --batch 0', "'0' is not a whole number"),
        ('classification', 'a.onnx --opset 17', 'opset 17 cannot be written: give one of 18'),
        ('classification', 'a.pt2 --opset 20', '--opset is for onnx and openvino'),
        ('classification', 'a.onnx --half --int8', 'not allowed with'),
        ('classification', 'a.onnx --half float8', "invalid choice: 'float8'"),
        ('classification', 'a.onnx --calibration .', '--calibration DIR is for --int8'),
        ('classification', 'a.onnx --int8 --calibration no', '--calibration no is no folder'),
        ('classification', 'a.onnx --int8 --calibration empty', 'empty has no images'),
        ('classification', 'a.pt2 --int8', '--int8 is for onnx and openvino'),
        ('classification', 'a.torchscript --size dynamic', 'torchscript files are for one size'),
        ('classification', 'a.pt2 --label-map', '--label-map is for whole segmentors'),
        ('detection', 'a.onnx --batch dynamic', 'exported for one size of a batch'),
        ('detection', 'a.onnx --size dynamic', 'a whole detector is exported for one size'),
        ('classification', 'a.pt2 --size dynamic --batch 1', 'leave --batch out'),
        ('detection', 'a.onnx --size 65 64', 'multiples of 32'),
    ],
)
def test_mistakes(library: str, options: str, said: str, export: Callable, tmp_path: Path):
    Path('there.onnx').write_text('mine')
    Path('empty').mkdir()
    before = sorted(tmp_path.rglob('*'))
    status, out, error = export(library, *options.split())
    lines = [line for line in error.splitlines() if line.startswith('error: ')]
    assert status == 2 and out == ''
    assert len(lines) == 1 and said in lines[0], error
    assert sorted(tmp_path.rglob('*')) == before and Path('there.onnx').read_text() == 'mine'


@pytest.mark.parametrize('size', ['96', 'dynamic'])
def test_a_folded_checkpoint_is_for_its_size(size: str, export: Callable, checkpoints, tmp_path):
    folded = tmp_path / 'folded.pth'
    fold_file(checkpoints['classification'], folded, 64)
    options = ('--size', size, '--cfg-options', 'model.backbone.inference_form=True')
    status, out, error = export('classification', 'a.pt2', *options, checkpoint=folded)
    word = 'any size' if size == 'dynamic' else '96 x 96'
    assert status == 2 and out == ''
    assert f'folded for images of 64 x 64, not for {word}' in error
    assert [path.name for path in tmp_path.iterdir()] == ['folded.pth']
