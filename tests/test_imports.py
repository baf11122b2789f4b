"""Imports go one way, and the core needs torch and mmengine alone."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import torch

import mmvheat
from mmvheat.ops.packed import can_pack

PACKAGE = Path(mmvheat.__file__).parent

# What parts of the core may import beside the standard library and other parts.
CORE = {
    'ops': {'torch', 'triton'},
    'layers': {'torch'},
    'errors': set(),
    'checkpoint': {'torch', 'numpy', 'safetensors', 'filelock', 'rich'},
    'registry': {'mmengine'},
    'models': {'torch', 'mmengine'},
    'hub': {'torch', 'huggingface_hub'},
    'visualization': {'torch', 'numpy', 'matplotlib'},
}
# What any room may use, but for those that need torch alone.
COMMON = {'errors', 'extras', 'registry'}
TORCH_ALONE = {'ops', 'layers'}
PAGE = PACKAGE.parent / 'docs' / 'architecture.md'
# The one class of mmengine's that its checkpoints hold.
EXCEPTIONS = {('safe_globals.py', 'mmengine.logging')}
TASK_LIBRARIES = ('mmdet', 'mmseg', 'mmpretrain', 'mmcv')
NOT_NEEDED = (
    *TASK_LIBRARIES, 'triton', 'timm', 'torchvision', 'sklearn', 'scipy', 'safetensors', 'yacs',
    'pycocotools', 'huggingface_hub', 'pytorch_grad_cam',
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


def rooms() -> list[str]:
    """The folders of the package."""
    return sorted(path.name for path in PACKAGE.iterdir() if list(path.glob('*.py')))


def imported_parts(part: str) -> set[str]:
    """The other parts of the package that a part imports."""
    modules = [module for path in sources(part) for module in imports(path)]
    found = {module.split('.')[1] for module in modules if module.startswith('mmvheat.')}
    return found - {part}


def test_the_arrows_of_the_page_are_the_imports():
    drawn = set(re.findall(r'^ +(\w+) --> (\w+)$', PAGE.read_text(), re.MULTILINE))
    found = {(room, other) for room in rooms() for other in imported_parts(room) - COMMON}
    assert found == drawn


def test_the_arrows_of_the_page_form_no_circle():
    arrows = {room: imported_parts(room) - COMMON for room in rooms()}
    assert tuple(TopologicalSorter(arrows).static_order())


@pytest.mark.parametrize('part', CORE)
def test_the_core_needs_few_others(part):
    for path in sources(part):
        for module in imports(path):
            top = module.partition('.')[0]
            allowed = {*sys.stdlib_module_names, *CORE[part], 'mmvheat'}
            if (path.name, module) not in EXCEPTIONS:
                assert top in allowed, f'{path.name} of {part} imports {module}'
    if part in TORCH_ALONE | COMMON:
        assert not imported_parts(part) & COMMON


def test_every_room_and_every_file_of_the_walks_is_there():
    text = PAGE.read_text()
    assert set(re.findall(r'^\| `mmvheat/(\w+)/` \|', text, re.MULTILINE)) == set(rooms())
    table, _, walks = text.partition('## The walk of an image')
    for name in re.findall(r'`(mmvheat/[\w/]+\.py|tools/)`', table):
        assert (PACKAGE.parent / name).exists(), name
    # `file` `name`, ...: the names are defined in the file.
    steps = re.findall(r'`(\w[\w/]+\.py)`((?:[\s,]+`[\w.]+`)*)', walks)
    assert len(steps) > 15
    for file, names in steps:
        path = PACKAGE / file
        if not path.is_file():
            path = PACKAGE.parent / file
        tree = ast.parse(path.read_text())
        defined = set()
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                defined.add(node.name)
                defined |= {f'{node.name}.{part.name}' for part in functions_of(node)}
        for name in re.findall(r'`([\w.]+)`', names):
            assert name in defined, f'{file} has no {name}'


def functions_of(node: ast.AST) -> list[ast.FunctionDef]:
    return [part for part in getattr(node, 'body', ()) if isinstance(part, ast.FunctionDef)]


def test_an_image_walks_through_the_files_of_the_page():
    """All files of which a function runs in training and in inference, and no others."""
    code = """
import sys, torch
from mmvheat.models import VHeat
model = VHeat(dict(depths=(1, 1), dims=8), img_size=32, out_indices=1)
files = set()
sys.setprofile(lambda frame, event, _: files.add(frame.f_code.co_filename))
model(torch.zeros(1, 3, 40, 32))
model.eval()
with torch.no_grad():
    model(torch.zeros(1, 3, 40, 32))
    model.pack()(torch.zeros(1, 3, 40, 32))
sys.setprofile(None)
print(*files, sep='\\n')
"""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    ran = {Path(name) for name in done.stdout.splitlines() if name.startswith(str(PACKAGE))}
    _, _, walks = PAGE.read_text().partition('## The walk of an image')
    image, _, _ = walks.partition('## The walk of a checkpoint')
    named = {PACKAGE / name for name in re.findall(r'`(\w[\w/]+\.py)`', image)}
    if not can_pack(torch.float32):
        named.remove(PACKAGE / 'layers/packed.py')
    assert ran == named


@pytest.mark.parametrize('part', CORE)
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
    for part in CORE:
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


def modules_after(code: str) -> set[str]:
    """Import nothing else in a new process, run the code, and give the modules that are there."""
    command = [sys.executable, '-W', 'ignore', '-c', f'{code}\nimport sys; print(*sys.modules)']
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_import_mmvheat_is_light():
    """It stays far below `import torch, mmengine`: they come when they are needed, Triton never."""
    assert {'torch', 'mmengine', 'numpy'}.isdisjoint(modules_after('import mmvheat'))
    everything = modules_after('import mmvheat; from mmvheat.models import VHeat; VHeat("tiny")')
    assert 'mmvheat.models.vheat' in everything and 'mmvheat.engine.resume' in everything
    assert {'torchvision', *TASK_LIBRARIES}.isdisjoint(everything)
    # torch 2.6 itself imports them with FSDP.
    assert {'triton', 'torch._dynamo'}.isdisjoint(everything) or torch.__version__ < (2, 7)
    assert 'mmengine' not in modules_after('from mmvheat.ops import dct2d')
    # What watches for mmengine is a finder like any other.
    modules_after('import mmvheat, importlib; importlib.invalidate_caches()')


def test_import_caches_can_be_cleared_before_mmengine_is_imported():
    assert 'mmengine' not in modules_after(
        'import importlib, mmvheat; importlib.invalidate_caches()'
    )


@pytest.mark.parametrize('order', ['mmvheat, mmengine', 'mmengine, mmvheat', 'mmvheat, mmdet'])
def test_what_mmvheat_registers_is_there_with_mmengine(order):
    """Whichever comes first: the plain name of the backbone, and the safe reader."""
    assert 'mmvheat.engine.resume' in modules_after(f"""
import {order}
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.runner import CheckpointLoader
assert MODELS.get('VHeat') is mmvheat.models.VHeat
assert OPTIM_WRAPPER_CONSTRUCTORS.get('LayerDecayOptimWrapperConstructor') is not None
assert CheckpointLoader._schemes['https://'].__module__ == 'mmvheat.engine.stack_fixes'
""")


TOOLS = [
    *sorted(str(path.relative_to(PACKAGE.parent)) for path in PACKAGE.parent.glob('tools/*.py')),
    *(
        f'tools/benchmarks/{name}.py'
        for name in ('backbone', 'exported', 'heat_operator', 'resolution')
    ),
    *(
        'tools/demo/run.py',
        'interpolate4downstream.py',
        '-m mmvheat.checkpoint',
        '-m mmvheat.doctor',
    ),
]


@pytest.mark.parametrize('tool', TOOLS)
def test_help_of_a_tool_comes_before_heavy_imports(tool):
    command = [sys.executable, '-X', 'importtime', *tool.split(), '--help']
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and done.stdout.startswith('usage: '), done.stderr
    imported = {line.rpartition('|')[2].strip() for line in done.stderr.splitlines()}
    assert 'argparse' in imported
    heavy = {
        'torch', 'triton', 'mmengine', 'numpy', 'timm', 'matplotlib', 'gradio', *TASK_LIBRARIES,
    }  # fmt: skip
    assert heavy.isdisjoint(imported)


def test_torch_and_mmengine_are_enough():
    """Where nothing else can be imported, the package imports, and the backbone runs."""
    code = f"""
import sys
for name in {NOT_NEEDED}:
    sys.modules[name] = None  # any import of it fails
import mmvheat, mmvheat.visualization.plots, torch
light = 'torch._dynamo' not in sys.modules or torch.__version__ < (2, 7)
assert light, 'the compiler, which takes a second to import'
from mmengine.registry import MODELS
model = MODELS.build(dict(type='mmvheat.VHeat', arch=dict(depths=(1, 1), dims=4), out_indices=1))
print(tuple(model(torch.zeros(1, 3, 30, 16))[0].shape))
try:
    import mmvheat.hub
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    shape, needed = done.stdout.splitlines()
    assert shape == '(1, 8, 4, 2)'
    assert needed.startswith('mmvheat.hub needs huggingface_hub: install the extra `hub`')
