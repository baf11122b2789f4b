"""Tiny ONNX files of the form that tools/export.py writes, whose predictions are known."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ['BOXES', 'MASKS', 'RESIZE', 'write_tiny_onnx']

COLOURS = ('red', 'green', 'blue')
RESIZE = dict(
    size=None, keep_ratio=False, crop=None, pad_value=0, interpolation='bilinear', backend='cv2'
)
METADATA = dict(
    classes=list(COLOURS),
    palette=None,
    mean=[0.0, 0.0, 0.0],
    std=[1.0, 1.0, 1.0],
    preprocess=False,
    size='dynamic',
    divisor=1,
    precision='float32',
    source={},
    versions={},
    batch='dynamic',
    resize=RESIZE,
    mask_threshold=0.5,
    score_threshold=0.3,
)
BOXES = [[2.0, 3.0, 10.0, 9.0], [0.5, 0.5, 6.25, 15.0], [0.0, 0.0, 1.0, 1.0]]
SCORES, LABELS = [0.9, 0.2, 0.0], [2, 0, -1]
MASKS = np.random.default_rng(0).random((3, 28, 28), np.float32)


def write_tiny_onnx(path: Path, kind: str, **metadata: object) -> str:
    """Write a model whose predictions are known: it looks at the three colours of pixels."""
    size = metadata.get('size', 'dynamic')
    shape = ['n', 3, *(('h', 'w') if size == 'dynamic' else size)]
    element = TensorProto.FLOAT
    nodes, constants = [], {}
    pixels = 'image'
    if metadata.get('preprocess'):
        shape, element, pixels = [shape[0], *shape[2:], 3], TensorProto.UINT8, 'pixels'
        nodes += [
            helper.make_node('Cast', ['image'], ['cast'], to=TensorProto.FLOAT),
            helper.make_node('Transpose', ['cast'], ['pixels'], perm=[0, 3, 1, 2]),
        ]
    if kind == 'classification':
        constants = {'axes': np.array([2, 3])}
        nodes += [
            helper.make_node('ReduceMean', [pixels, 'axes'], ['mean'], keepdims=0),
            helper.make_node('Softmax', ['mean'], ['scores']),
        ]
        outputs = {'scores': ['n', 3]}
    elif kind == 'segmentation':
        nodes.append(helper.make_node('Identity', [pixels], ['logits']))
        outputs = {'logits': ['n', 3, None, None]}
    else:
        constants = {
            'boxes': np.array([BOXES], np.float32),
            'scores': np.array([SCORES], np.float32),
            'labels': np.array([LABELS]),
            'masks': MASKS[None],
        }
        outputs = {name: list(value.shape) for name, value in constants.items()}
        nodes = [
            helper.make_node('Constant', [], [name], value=numpy_helper.from_array(value))
            for name, value in constants.items()
        ]
        constants = {}
    graph = helper.make_graph(
        nodes,
        kind,
        [helper.make_tensor_value_info('image', element, shape)],
        [
            helper.make_tensor_value_info(
                name, TensorProto.INT64 if name == 'labels' else TensorProto.FLOAT, dims
            )
            for name, dims in outputs.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)
    helper.set_model_props(
        model,
        {'mmvheat': json.dumps({**METADATA, 'task': kind, 'outputs': list(outputs), **metadata})},
    )
    onnx.save(model, path)
    return str(path)
