"""The stand-in for mmcv's compiled module: its names, its refusals, what the libraries need."""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import mmcv
import pytest
import torch
from mmcv_ops.cases import compiled_module

from mmvheat.errors import UserError
from mmvheat.mmcv_ops import ext

OPS = Path(mmcv.__file__).parent / 'ops'
LIBRARIES = ('mmdet', 'mmseg', 'mmpretrain')
# What configs of the libraries name, beside what their code imports.
BY_TYPE = (
    'deform_conv', 'modulated_deform_conv', 'saconv', 'carafe', 'deform_roi_pool', 'roi_align',
    'roi_pool', 'sync_bn', 'cc_attention', 'psa_mask', 'merge_cells', 'corner_pool',
)  # fmt: skip
# Of files that hold other functions, too; no library calls these. Lines are for CLRNet alone, which
# onedl-mmdetection has beside mmdet's models.
UNUSED = {'nms_rotated', 'nms_quadri', 'line_nms_forward'}


def functions_of(file: Path) -> set[str]:
    """The functions that a file of ``mmcv.ops`` asks the compiled module for."""
    lists = re.findall(r"load_ext\(\s*'_ext',\s*\[(.*?)\]", file.read_text(), re.DOTALL)
    return set(re.findall(r"'(\w+)'", ' '.join(lists)))


def ops_imported_by(library: str) -> Iterator[str]:
    """Files of ``mmcv.ops`` with what the code of a library imports from it."""
    for path in Path(find_spec(library).origin).parent.rglob('*.py'):
        if '.mim' in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('mmcv.ops'):
                module = import_module(node.module)
                for alias in node.names:
                    found = getattr(module, alias.name)
                    # `apply` of an autograd function belongs to its class.
                    yield getattr(found, '__self__', found).__module__.removeprefix('mmcv.ops.')


def test_every_name_that_mmcv_asks_for():
    """``ext_loader.load_ext`` refuses a module that lacks one."""
    asked = set().union(*map(functions_of, OPS.glob('*.py')))
    assert len(asked) > 100
    assert not {name for name in asked if not hasattr(ext, name)}
    assert not hasattr(ext, 'no_such_function')


@pytest.mark.parametrize('library', LIBRARIES)
def test_no_library_needs_a_missing_function(library):
    files = {*ops_imported_by(library), *BY_TYPE}
    needed = set().union(*(functions_of(OPS / f'{name}.py') for name in files))
    assert not needed & set(ext.MISSING) - UNUSED


def test_a_missing_function_says_how_to_get_it():
    text = r'mmcv.ops needs knn_forward, .*`make setup MMCV=compiled`'
    with pytest.raises(UserError, match=text) as raised:
        ext.knn_forward(torch.zeros(1), k=3)
    assert '\n' not in str(raised.value)


@pytest.mark.skipif(compiled_module() is None, reason='needs a compiled mmcv')
@pytest.mark.parametrize('name', ext.FUNCTIONS)
def test_arguments_are_called_as_the_compiled_ones(name):
    """And stand in the same order."""
    text = getattr(compiled_module(), name).__doc__.splitlines()[0]
    assert re.findall(r'(\w+): ', text) == list(inspect.signature(getattr(ext, name)).parameters)
