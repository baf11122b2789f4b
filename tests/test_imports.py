"""Imports go one way, and the core needs torch and mmengine alone."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mmvheat

PACKAGE = Path(mmvheat.__file__).parent

# What each part of the core may import: of mmvheat, and of others beside the standard library.
ALLOWED = {
    'ops': ({'ops'}, {'torch', 'triton'}),
    'layers': ({'ops', 'layers'}, {'torch'}),
    'errors': (set(), set()),
    'checkpoint': (
        {'ops', 'errors', 'checkpoint'},
        {'torch', 'numpy', 'safetensors', 'filelock', 'rich'},
    ),
    'registry': (set(), {'mmengine'}),
    'models': (
        {'ops', 'layers', 'errors', 'checkpoint', 'registry', 'models'},
        {'torch', 'mmengine'},
    ),
}
# The one class of mmengine's that its checkpoints hold.
EXCEPTIONS = {('safe_globals.py', 'mmengine.logging')}
TASK_LIBRARIES = ('mmdet', 'mmseg', 'mmpretrain', 'mmcv')
NOT_NEEDED = (
    *TASK_LIBRARIES, 'triton', 'timm', 'torchvision', 'sklearn', 'scipy', 'safetensors', 'yacs',
    'pycocotools',
)  # fmt: skip


def sources(part: str) -> list[Path]:
    """The files of one part of the package; a command line in it is no part of it."""
    folder = PACKAGE / part
    files = folder.rglob('*.py') if folder.is_dir() else [folder.with_suffix('.py')]
    return sorted(path for path in files if path.name != '__main__.py')


def imports(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, at its top or inside a function."""
    package = ('mmvheat', *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = '.'.join((*base, *filter(None, [node.module])))
            if module == 'mmvheat':  # `from .. import layers` names a part, not a function
                yield from (f'{module}.{alias.name}' for alias in node.names)
            else:
                yield module


@pytest.mark.parametrize('part', ALLOWED)
def test_imports_go_one_way(part):
    parts, others = ALLOWED[part]
    seen = set()
    for path in sources(part):
        for module in imports(path):
            top, _, rest = module.partition('.')
            seen.add(top)
            if top == 'mmvheat':
                assert rest.split('.')[0] in parts, f'{path.name} of {part} imports {module}'
            elif top not in sys.stdlib_module_names and (path.name, module) not in EXCEPTIONS:
                assert top in others, f'{path.name} of {part} imports {module}'
    assert seen, 'the check sees imports'


@pytest.mark.parametrize('part', ALLOWED)
def test_no_module_of_the_core_names_a_task_library_in_code(part):
    """Also not in a string, as a lazy import would."""
    for path in sources(part):
        tree = ast.parse(path.read_text())
        documentation = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if id(node) not in documentation:
                    assert node.value.split('.')[0] not in TASK_LIBRARIES, f'{path}:{node.lineno}'


def test_every_package_says_what_is_public():
    for part in ALLOWED:
        for path in sources(part):
            tree = ast.parse(path.read_text())
            assigned = {
                target.id
                for node in tree.body
                if isinstance(node, ast.Assign)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            assert '__all__' in assigned, f'{path} has no __all__'


def test_torch_and_mmengine_are_enough():
    """Where nothing else can be imported, the package imports, and the backbone runs."""
    code = f"""
import sys
for name in {NOT_NEEDED}:
    sys.modules[name] = None  # any import of it fails
import mmvheat, torch
assert 'torch._dynamo' not in sys.modules, 'the compiler, which takes a second to import'
from mmengine.registry import MODELS
model = MODELS.build(dict(type='mmvheat.VHeat', arch=dict(depths=(1, 1), dims=4), out_indices=1))
print(tuple(model(torch.zeros(1, 3, 30, 16))[0].shape))
"""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '(1, 8, 4, 2)'
