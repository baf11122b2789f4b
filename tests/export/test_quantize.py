"""int8 and bfloat16 forms of an exported classifier."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmvheat.errors import UserError
from mmvheat.export.quantize import quantize, with_bfloat16_weights


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution, a transform of heat conduction, a linear layer and a classifier in float32."""
    rng = np.random.default_rng(0)
    sizes = dict(conv=(32, 3, 4, 4), basis=(8, 8), linear=(32, 64), scale=(64,), head=(4, 64))
    weights = {name: rng.standard_normal(size, np.float32) for name, size in sizes.items()}
    weights['axes'] = np.array([1, 2])
    make = helper.make_node
    nodes = [
        make('Conv', ['image', 'conv'], ['stem'], strides=[4, 4]),
        make('MatMul', ['basis', 'stem'], ['heat'], 'transform'),
        make('Transpose', ['heat'], ['last'], perm=[0, 2, 3, 1]),
        make('MatMul', ['last', 'linear'], ['mixed'], 'linear'),
        make('LayerNormalization', ['mixed', 'scale'], ['normal']),
        make('ReduceMean', ['normal', 'axes'], ['mean'], keepdims=0),
        make('Gemm', ['mean', 'head'], ['scores'], 'head', transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        'model',
        [helper.make_tensor_value_info('image', TensorProto.FLOAT, ['n', 3, 32, 32])],
        [helper.make_tensor_value_info('scores', TensorProto.FLOAT, ['n', 4])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    path = tmp_path_factory.mktemp('quantize') / 'model.onnx'
    opsets = [helper.make_opsetid('', 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def make_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 32, 32), np.float32)


def run(path: Path, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    (found,) = onnxruntime.InferenceSession(path, options).run(None, {'image': images})
    return found


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return np.abs(found - expected).max() / np.abs(expected).max()


def test_int8_is_for_weights_and_leaves_heat_conduction_alone(model, tmp_path):
    calibration = make_images(16, seed=1)
    quantize(model, tmp_path / 'int8.onnx', (image[None] for image in calibration))
    graph = onnx.load(tmp_path / 'int8.onnx').graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    products = {
        node.output[0].removesuffix('_QuantizeLinear_Input'): node
        for node in graph.node
        if node.op_type in ('MatMul', 'Gemm', 'Conv')
    }
    assert set(products) == {'stem', 'heat', 'mixed', 'scores'}
    for name, node in products.items():
        quantized = [made_by.get(value) == 'DequantizeLinear' for value in node.input[:2]]
        # The transform reads what the convolution wrote in 8 bits; its basis is float.
        assert quantized == ([False, True] if name == 'heat' else [True, True])
    scales = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    for name, channels in (('conv', 32), ('linear', 64), ('head', 4)):
        assert scales[f'{name}_scale'] == (channels,)
    images = make_images(32, seed=2)
    found, expected = run(tmp_path / 'int8.onnx', images), run(model, images)
    assert relative_error(found, expected) < 0.1
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.9
    assert (tmp_path / 'int8.onnx').stat().st_size < 0.5 * model.stat().st_size


def test_half_the_size_for_nearly_the_same(model, tmp_path):
    """Weights of layers are stored as bfloat16, other constants are not."""
    source = onnx.load(model)
    anchors = np.linspace(0, 1, 512, dtype=np.float32)
    source.graph.initializer.append(numpy_helper.from_array(anchors, 'anchors'))
    before = source.SerializeToString()
    half = with_bfloat16_weights(source)
    assert source.SerializeToString() == before
    types = {weight.name: weight.data_type for weight in half.graph.initializer}
    assert {name for name, type in types.items() if type == TensorProto.BFLOAT16} == {
        'conv_bfloat16', 'linear_bfloat16', 'head_bfloat16',
    }  # fmt: skip
    assert types['basis'] == types['anchors'] == TensorProto.FLOAT
    onnx.save(half, tmp_path / 'half.onnx')
    images = make_images(8)
    found, expected = run(tmp_path / 'half.onnx', images), run(model, images)
    assert found.dtype == np.float32
    assert 0 < relative_error(found, expected) < 3e-2
    assert (tmp_path / 'half.onnx').stat().st_size < 0.7 * model.stat().st_size


def test_int8_needs_images(model, tmp_path):
    with pytest.raises(UserError, match='there are none'):
        quantize(model, tmp_path / 'int8.onnx', [])
    assert not list(tmp_path.iterdir())
